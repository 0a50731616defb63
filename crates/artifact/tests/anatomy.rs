//! Which axis of a case lies along which axis of the body.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::case::Original;
use artifact::nifti::Geometry;
use artifact::recipe::AnatomicalAxis::{self, AnteriorPosterior, InferiorSuperior, LeftRight};

const BODY: [AnatomicalAxis; 3] = [LeftRight, AnteriorPosterior, InferiorSuperior];

/// A case whose image axes x, y, z point along these LPS directions (one column each), with this transpose.
fn original(columns: [[f64; 3]; 3], transpose: [usize; 3]) -> Original {
    let mut geometry = Geometry::plain([4, 5, 6], [1.0; 3]);
    geometry.direction =
        std::array::from_fn(|row| std::array::from_fn(|column| columns[column][row]));
    let crop_upper = transpose.map(|axis| [4, 5, 6][axis]);
    Original { transpose, flip: [false; 3], crop_lower: [0; 3], crop_upper, geometry }
}

/// The LPS directions of an orientation code: the letters say where x, y and z point to.
fn columns(code: &str) -> [[f64; 3]; 3] {
    let direction = |letter| match letter {
        'L' => [1.0, 0.0, 0.0],
        'R' => [-1.0, 0.0, 0.0],
        'P' => [0.0, 1.0, 0.0],
        'A' => [0.0, -1.0, 0.0],
        'S' => [0.0, 0.0, 1.0],
        'I' => [0.0, 0.0, -1.0],
        _ => panic!("no direction {letter}"),
    };
    code.chars().map(direction).collect::<Vec<_>>().try_into().unwrap()
}

/// Plan axes of left/right, anterior/posterior, inferior/superior.
fn axes(columns: [[f64; 3]; 3], transpose: [usize; 3]) -> [usize; 3] {
    BODY.map(|body| original(columns, transpose).anatomical_axis(body))
}

#[test]
fn axis_aligned_images_are_read_off_their_code() {
    // Array axes are z, y, x, so the first letter is axis 2.
    for (code, expected) in [
        ("LPS", [2, 1, 0]),
        ("RAS", [2, 1, 0]),
        ("LIA", [2, 0, 1]),
        ("PSR", [0, 2, 1]),
        ("AIL", [0, 2, 1]),
        ("SRP", [1, 0, 2]),
        ("IPR", [0, 1, 2]),
    ] {
        assert_eq!(axes(columns(code), [0, 1, 2]), expected, "{code}");
    }
}

#[test]
fn the_plan_s_transpose_moves_the_axes_along() {
    for transpose in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for (code, array) in [("LPS", [2, 1, 0]), ("LIA", [2, 0, 1]), ("PSR", [0, 2, 1])] {
            let found = axes(columns(code), transpose);
            // Plan axis i is image axis transpose[i].
            assert_eq!(found.map(|plan| transpose[plan]), array, "{code} {transpose:?}");
        }
    }
}

#[test]
fn oblique_images_go_by_the_closest_axis() {
    let turned = |degrees: f64, code: &str| {
        let (s, c) = degrees.to_radians().sin_cos();
        // About the axis from feet to head.
        columns(code).map(|[l, p, i]| [c * l - s * p, s * l + c * p, i])
    };
    for degrees in [-40.0, -12.0, 30.0, 44.0] {
        assert_eq!(axes(turned(degrees, "LPS"), [0, 1, 2]), [2, 1, 0], "{degrees}");
    }
    for degrees in [46.0, 80.0, -50.0, 120.0] {
        assert_eq!(axes(turned(degrees, "LPS"), [0, 1, 2]), [1, 2, 0], "{degrees}");
    }
    // A coronal acquisition tilted by 20 degrees: x to the left, y to the feet, z to the front.
    assert_eq!(axes(turned(20.0, "LIA"), [0, 1, 2]), [2, 0, 1]);
}

#[test]
fn every_axis_of_the_body_has_an_axis_of_its_own() {
    // Left and feet are both closest to z; x and y serve best if z goes to the feet.
    let (x, y, z) = ([0.67, 0.39, -0.60], [0.10, -0.889, -0.44], [0.735, -0.235, 0.668]);
    assert_eq!(axes([x, y, z], [0, 1, 2]), [2, 1, 0]);
    // Two axes are as close to both: the first plan axis is the left's.
    let s = 0.5f64.sqrt();
    let equal = [[s, s, 0.0], [s, -s, 0.0], [0.0, 0.0, 1.0]];
    assert_eq!(axes(equal, [0, 1, 2]), [1, 2, 0]);
}

#[test]
fn mirroring_leaves_out_what_must_not_be_flipped() {
    let case = original(columns("PSR"), [0, 1, 2]);
    assert_eq!(case.mirror_axes(&[0, 1, 2], &[]), [0, 1, 2]);
    assert_eq!(case.mirror_axes(&[0, 1, 2], &[LeftRight]), [1, 2]);
    assert_eq!(case.mirror_axes(&[2, 1], &[LeftRight, InferiorSuperior]), [2]);
    assert_eq!(case.mirror_axes(&[0, 1, 2], &BODY), Vec::<usize>::new());
}
