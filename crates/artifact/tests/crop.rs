//! The nonzero mask and its box against scipy.ndimage.binary_fill_holes.

use artifact::crop::{bounding_box, nonzero_mask};
use ndarray::{Array3, Array4};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    /// channel, z, y, x
    shape: [usize; 4],
    image: Vec<f32>,
    filled: Vec<u8>,
    #[serde(rename = "box")]
    bounds: Option<[[usize; 2]; 3]>,
}

#[test]
fn masks_and_boxes_are_those_of_scipy() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/crop/expected.json");
    let cases: Vec<Golden> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(cases.len() > 20);
    for (number, case) in cases.into_iter().enumerate() {
        let [_, z, y, x] = case.shape;
        let image = Array4::from_shape_vec(case.shape, case.image).unwrap();
        let expected = Array3::from_shape_vec((z, y, x), case.filled).unwrap().mapv(|v| v == 1);
        let mask = nonzero_mask(image.view());
        assert_eq!(mask, expected, "case {number} of shape {:?}", case.shape);
        let bounds = bounding_box(&mask).map(|r| [r.start, r.end]);
        assert_eq!(bounds, case.bounds.unwrap_or([[0, z], [0, y], [0, x]]), "case {number}");
    }
}

#[test]
fn views_with_any_strides_give_the_same_mask() {
    let image = Array4::from_shape_fn((2, 5, 6, 7), |(c, z, y, x)| ((c + z * y + x) % 3) as f32);
    let mut turned = Array4::zeros((7, 6, 5, 2)).reversed_axes();
    turned.assign(&image);
    assert_eq!(nonzero_mask(turned.view()), nonzero_mask(image.view()));
}

#[test]
fn not_a_number_counts_as_data() {
    let mut image = Array4::zeros((1, 3, 3, 3));
    image[[0, 1, 2, 0]] = f32::NAN;
    image[[0, 0, 0, 0]] = -0.0;
    assert_eq!(bounding_box(&nonzero_mask(image.view())), [1..2, 2..3, 0..1]);
}
