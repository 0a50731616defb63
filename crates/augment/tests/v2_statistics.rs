//! The random draws of recipe `v2` against those of nnU-Net's own transforms (`golden/v2/statistics.toml`).
//!
//! Two samples of one distribution are compared, so each bound is that of their difference; all are 4.9 standard
//! deviations: a right program would fail once in a million seeds. Ours are fixed, so a test passes always or never.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

#[path = "support/recipes.rs"]
mod recipes;

use augment::previous::Operation;
use augment::{Draws, Frame, Settings};
use recipes::recipe;

const DRAWS: usize = 40_000;
const SIGMAS: f64 = 4.9;

fn reference() -> toml::Table {
    include_str!("golden/v2/statistics.toml").parse().unwrap()
}

/// `count` of `of` against the reference's rate.
fn assert_rate(name: &str, count: usize, of: usize) {
    let reference = reference();
    let pair: [u32; 2] = reference["rates"][name].clone().try_into().unwrap();
    let [a, b] = pair.map(f64::from);
    let (count, of) = (count as f64, of as f64);
    let p = (a + count) / (b + of);
    let sd = (p * (1.0 - p) * (1.0 / b + 1.0 / of)).sqrt();
    let difference = (a / b - count / of).abs();
    assert!(
        difference <= SIGMAS * sd,
        "{name}: {} of {of}, there {} of {b}, bound {:.4}",
        count / of,
        a / b,
        SIGMAS * sd
    );
}

/// Mean, standard deviation and distribution function against the reference's.
fn assert_values(name: &str, values: &[f64]) {
    let reference = reference();
    let table = reference["values"][name].as_table().unwrap();
    let number = |key: &str| match &table[key] {
        toml::Value::Integer(n) => *n as f64,
        other => other.as_float().unwrap(),
    };
    let n = values.len() as f64;
    assert!(n > 500.0, "{name}: only {n} values");
    let mean = values.iter().sum::<f64>() / n;
    let sd = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
    let spread = (1.0 / n + 1.0 / number("n")).sqrt();
    let bound = SIGMAS * sd * spread;
    assert!((mean - number("mean")).abs() <= bound, "{name}: mean {mean}, bound {bound}");
    // The standard deviation of a flat sample's standard deviation is at most 1/2 of that of a normal one's mean.
    let bound = SIGMAS * sd * spread / 2.0;
    assert!((sd - number("sd")).abs() <= bound, "{name}: sd {sd}, bound {bound}");
    for (i, quantile) in table["quantiles"].as_array().unwrap().iter().enumerate() {
        let (p, quantile) = ((i + 1) as f64 / 20.0, quantile.as_float().unwrap());
        let share = values.iter().filter(|&&v| v < quantile).count() as f64 / n;
        let bound = SIGMAS * (p * (1.0 - p)).sqrt() * spread;
        assert!((share - p).abs() <= bound, "{name}: {share} below {quantile}, there {p}");
    }
}

/// Draws of recipe `v2` for patches of two channels and two classes of a previous stage.
fn draws(patch: [usize; 3]) -> Vec<Draws> {
    let settings = Settings::new(&recipe("v2").augmentation, patch);
    let draw =
        |n| Draws::draw(|what| stage::rng(3, &[n, what as u64]), &settings, 2, 2, &[0, 1, 2]);
    (0..DRAWS as u64).map(draw).collect()
}

/// The values of all that fired.
fn fired<'a, T>(
    draws: &'a [Draws],
    what: impl Fn(&'a Draws) -> Option<T>,
) -> impl Iterator<Item = T> {
    draws.iter().filter_map(what)
}

#[test]
fn spatial_transforms() {
    for (patch, name) in
        [([64, 80, 64], "volume"), ([16, 96, 96], "slices"), ([1, 256, 224], "slices")]
    {
        let draws = draws(patch);
        let angles: Vec<[f64; 3]> = fired(&draws, |d| d.angles).collect();
        let scales: Vec<f64> = fired(&draws, |d| d.scale).collect();
        let either =
            fired(&draws, |d| (d.angles.is_some() || d.scale.is_some()).then_some(())).count();
        assert_rate(&format!("{name}_rotation"), angles.len(), DRAWS);
        assert_rate(&format!("{name}_scaling"), scales.len(), DRAWS);
        assert_rate(&format!("{name}_rotation_or_scaling"), either, DRAWS);
        assert_values(&format!("{name}_scale"), &scales);
        let degrees =
            |axis: usize| -> Vec<f64> { angles.iter().map(|a| a[axis].to_degrees()).collect() };
        if name == "slices" {
            assert_values("slices_degrees", &degrees(0));
            assert!(angles.iter().all(|a| a[1] == 0.0 && a[2] == 0.0));
        } else {
            (0..3)
                .for_each(|axis| assert_values(&format!("volume_degrees_{axis}"), &degrees(axis)));
        }
        assert!(draws.iter().all(|d| d.elastic.is_none()));
    }
}

#[test]
fn slices_lie_across_the_first_axis_alone() {
    let frame = |patch| Settings::new(&recipe("v2").augmentation, patch).frame;
    assert_eq!(frame([40, 120, 100]), Frame::Volume, "three times isn't more than three times");
    assert_eq!(frame([40, 128, 100]), Frame::Slices(0));
    assert_eq!(frame([128, 128, 24]), Frame::Volume, "the short axis isn't the first");
    assert_eq!(frame([1, 8, 8]), Frame::Slices(0));
    let paper = |patch| Settings::new(&recipe("paper").augmentation, patch).frame;
    assert_eq!(paper([128, 128, 24]), Frame::Slices(2));
    assert_eq!(paper([40, 88, 60]), Frame::Slices(0));
}

#[test]
fn noise_blur_and_low_resolution() {
    let draws = draws([16, 96, 96]);
    let noise: Vec<f64> = fired(&draws, |d| d.noise.map(|n| n.sigma)).collect();
    assert_rate("noise", noise.len(), DRAWS);
    assert_values("noise_sigma", &noise);
    let blur: Vec<_> = fired(&draws, |d| d.blur.as_ref()).collect();
    let widths: Vec<f64> = blur.iter().copied().flatten().flatten().flatten().copied().collect();
    assert_rate("blur", blur.len(), DRAWS);
    assert_rate("blur_channels", widths.len() / 3, 2 * blur.len());
    assert_values("blur_sigma", &widths);
    let low: Vec<_> = fired(&draws, |d| d.low_resolution.as_ref()).collect();
    let zooms: Vec<f64> = low.iter().copied().flatten().flatten().copied().collect();
    assert_rate("low_resolution", low.len(), DRAWS);
    assert_rate("low_resolution_channels", zooms.len(), 2 * low.len());
    assert_values("low_resolution_zoom", &zooms);
}

/// Factors per channel of one transform.
type Factors = fn(&Draws) -> Option<&Vec<f64>>;

#[test]
fn factors_and_exponents() {
    let draws = draws([64, 80, 64]);
    let all: [(&str, Factors); 4] = [
        ("brightness", |d| d.brightness.as_ref()),
        ("contrast", |d| d.contrast.as_ref()),
        ("inverted_gamma", |d| d.inverted_gamma.as_ref()),
        ("gamma", |d| d.gamma.as_ref()),
    ];
    for (name, what) in all {
        let found: Vec<&Vec<f64>> = fired(&draws, what).collect();
        assert!(found.iter().all(|f| f.len() == 2), "{name}");
        assert_rate(name, found.len(), DRAWS);
        assert_values(
            &format!("{name}_factor"),
            &found.iter().copied().flatten().copied().collect::<Vec<_>>(),
        );
        let rising = found.iter().filter(|f| f[0] < f[1]).count();
        assert_rate(&format!("{name}_rising"), rising, found.len());
    }
}

#[test]
fn mirroring() {
    let draws = draws([64, 80, 64]);
    for axis in 0..3 {
        let flips = draws.iter().filter(|d| d.mirror[axis]).count();
        assert_rate(&format!("mirror_{axis}"), flips, DRAWS);
    }
}

#[test]
fn transforms_fire_independently() {
    let draws = draws([64, 80, 64]);
    let fired = |d: &Draws| {
        let rest = [d.mirror[0], d.mirror[1], d.mirror[2], !d.removal.is_empty()];
        let first = [
            d.angles.is_some(),
            d.scale.is_some(),
            d.noise.is_some(),
            d.blur.is_some(),
            d.brightness.is_some(),
            d.contrast.is_some(),
            d.low_resolution.is_some(),
            d.inverted_gamma.is_some(),
            d.gamma.is_some(),
            !d.morphology.is_empty(),
        ];
        [&first[..], &rest].concat()
    };
    let fired: Vec<Vec<bool>> = draws.iter().map(fired).collect();
    let share = |of: &dyn Fn(&Vec<bool>) -> bool| {
        fired.iter().filter(|f| of(f)).count() as f64 / DRAWS as f64
    };
    for a in 0..fired[0].len() {
        for b in 0..a {
            let (p, q) = (share(&|f| f[a]), share(&|f| f[b]));
            let both = share(&|f| f[a] && f[b]);
            let bound = SIGMAS * (p * (1.0 - p) * q * (1.0 - q) / DRAWS as f64).sqrt();
            assert!((both - p * q).abs() <= bound, "{a} with {b}: {both}, expected {}", p * q);
        }
    }
}

#[test]
fn changes_of_the_previous_stage() {
    let draws = draws([64, 80, 64]);
    // Where neither label is drawn nothing tells that the change fired: a quarter of the time.
    let labels: usize = draws.iter().map(|d| d.morphology.len()).sum();
    let (p, n) = (0.4 * 0.5, 2.0 * DRAWS as f64);
    // Two labels of one sample hang together: their variance is at most twice that of independent ones.
    let bound = SIGMAS * (2.0 * p * (1.0 - p) / n).sqrt();
    assert!((labels as f64 / n - p).abs() <= bound, "{labels} labels");
    let both: Vec<_> = draws.iter().filter(|d| d.morphology.len() == 2).collect();
    let one = draws.iter().filter(|d| d.morphology.len() == 1).count();
    // Of those where exactly one or two are drawn: 2 : 1.
    let share = both.len() as f64 / (both.len() + one) as f64;
    let sd = (2.0 / 9.0 / (both.len() + one) as f64).sqrt();
    assert!((share - 1.0 / 3.0).abs() <= SIGMAS * sd, "{share} with both labels");
    assert_rate(
        "morphology_order",
        both.iter().filter(|d| d.morphology[0].class == 1).count(),
        both.len(),
    );
    let all: Vec<_> = draws.iter().flat_map(|d| &d.morphology).collect();
    for (name, operation) in [
        ("binary_dilation", Operation::Dilate),
        ("binary_erosion", Operation::Erode),
        ("binary_opening", Operation::Open),
        ("binary_closing", Operation::Close),
    ] {
        assert_rate(name, all.iter().filter(|m| m.operation == operation).count(), all.len());
    }
    // A departure: whole radii from 1 to 8. There the radius is a real number, and the ball that it makes has a
    // diameter of 3 to 16 voxels, even ones too, which are shifted by half a voxel.
    for radius in 1..=8 {
        let share = all.iter().filter(|m| m.radius == radius).count() as f64 / all.len() as f64;
        let sd = (1.0 / 8.0 * 7.0 / 8.0 / all.len() as f64).sqrt();
        assert!((share - 1.0 / 8.0).abs() <= SIGMAS * sd, "radius {radius}: {share}");
    }
    let labels: usize = draws.iter().map(|d| d.removal.len()).sum();
    let p = 0.2 * 0.5;
    let bound = SIGMAS * (2.0 * p * (1.0 - p) / n).sqrt();
    assert!((labels as f64 / n - p).abs() <= bound, "{labels} labels lose a component");
    let which: Vec<f64> = draws.iter().flat_map(|d| &d.removal).map(|r| r.which).collect();
    let mean = which.iter().sum::<f64>() / which.len() as f64;
    assert!((mean - 0.5).abs() <= SIGMAS * (1.0 / 12.0 / which.len() as f64).sqrt(), "{mean}");
}

#[test]
fn noise_is_normal_and_differs_by_channel() {
    let noise = augment::Noise { sigma: 0.08, seed: 11 };
    let channel = |index| {
        let mut values = ndarray::Array3::<f32>::from_elem((40, 40, 40), 1.5);
        augment::intensity::noise(values.view_mut(), noise, index);
        values.mapv(|v| (f64::from(v) - 1.5) / 0.08)
    };
    let (a, b) = (channel(0), channel(1));
    let n = a.len() as f64;
    // Moments of a standard normal sample: their standard deviations times √n are 1, √2, √15, √96.
    for values in [&a, &b] {
        for (power, expected, sd) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)]
        {
            let moment = values.iter().map(|v| v.powi(power)).sum::<f64>() / n;
            let bound = SIGMAS * f64::sqrt(sd / n);
            assert!((moment - expected).abs() <= bound, "moment {power}: {moment}, bound {bound}");
        }
    }
    let product = (&a * &b).sum() / n;
    assert!(product.abs() <= SIGMAS / n.sqrt(), "channels hang together: {product}");
}

#[test]
fn a_probability_changes_no_other_transform_s_numbers() {
    let mut recipe = recipe("v2").augmentation;
    let draw = |recipe: &artifact::recipe::Augmentation| {
        let settings = Settings::new(recipe, [64, 80, 64]);
        let draw =
            |n| Draws::draw(|what| stage::rng(3, &[n, what as u64]), &settings, 2, 2, &[0, 1, 2]);
        (0..200).map(draw).collect::<Vec<Draws>>()
    };
    let before = draw(&recipe);
    recipe.noise_probability = 0.0;
    recipe.elastic_probability = 1.0;
    recipe.blur_probability = 1.0;
    let after = draw(&recipe);
    for (before, mut after) in before.into_iter().zip(after) {
        assert!(after.noise.is_none() && after.elastic.is_some() && after.blur.is_some());
        (after.noise, after.elastic) = (before.noise, before.elastic);
        if before.blur.is_some() {
            assert_eq!(before.blur, after.blur);
        }
        after.blur.clone_from(&before.blur);
        assert_eq!(before, after);
    }
}
