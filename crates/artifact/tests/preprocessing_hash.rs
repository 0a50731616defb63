//! What makes preprocessed cases stale.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::plan::Plan;

fn committed() -> toml::Table {
    include_str!("golden/records/plan.3/plan.toml").parse().unwrap()
}

/// What preprocessing doesn't use doesn't make its cases stale.
/// What is changed, and how.
type Changed<'a> = (&'a str, &'a dyn Fn(&mut Plan));

#[test]
fn cases_depend_on_what_decides_their_bytes_alone() {
    let plan: Plan = toml::from_str(&toml::to_string(&committed()).unwrap()).unwrap();
    let hash = |change: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        change(&mut plan);
        plan.preprocessing_hash("3d_fullres").unwrap()
    };
    fn full(plan: &mut Plan) -> &mut artifact::plan::Configuration {
        plan.configurations.get_mut("3d_fullres").unwrap()
    }
    let ct = |p: &mut Plan| p.channels[0].normalisation = artifact::plan::Normalisation::Ct;
    let volumes = hash(&|_| {});
    let slices = hash(&|p| full(p).keep_slice_distance = true);
    assert_ne!(volumes, slices);
    let same: [Changed<'_>; 7] = [
        ("patch", &|p| full(p).patch_shape = [16; 3]),
        ("median shape", &|p| full(p).median_shape = [9.0; 3]),
        ("name of a label", &|p| p.labels[1].name = "tumour".into()),
        ("name of a channel", &|p| p.channels[0].name = "T1".into()),
        ("intensities of a z-scored channel", &|p| p.channels[0].intensity.mean = 3.0),
        ("loss", &|p| p.recipe.loss.dice_smooth = 1.0),
        ("name of the data set", &|p| p.dataset.name = "other".into()),
    ];
    for (what, change) in same {
        assert_eq!(hash(change), volumes, "{what}");
    }
    // Slices that keep their distance have no use for a target.
    let spacing = |p: &mut Plan, axis: usize| full(p).spacing_mm[axis] = 7.0;
    let of_slices = |axis| {
        hash(&|p| {
            full(p).keep_slice_distance = true;
            spacing(p, axis);
        })
    };
    assert_eq!(of_slices(0), slices);
    assert!(of_slices(1) != slices && of_slices(2) != slices);
    let other: [Changed<'_>; 8] = [
        ("spacing", &|p| spacing(p, 0)),
        ("order of axes", &|p| p.geometry.transpose = [1, 0, 2]),
        ("normalisation", &ct),
        ("value of a label", &|p| p.labels[1].value = 2),
        ("another label", &|p| {
            let label = artifact::Label { name: "more".into(), value: 2 };
            p.labels.push(label);
        }),
        ("ignore label", &|p| {
            p.ignore = Some(artifact::Label { name: "ignore".into(), value: 2 });
        }),
        ("order of resampling", &|p| p.recipe.preprocessing.image_order = 1),
        ("foreground", &|p| p.recipe.preprocessing.foreground_locations_per_class = 1),
    ];
    for (what, change) in other {
        assert_ne!(hash(change), volumes, "{what}");
    }
    let of_ct = hash(&ct);
    for change in [
        (|i| i.mean = 3.0) as fn(&mut artifact::plan::Intensity),
        |i| i.sd = 3.0,
        |i| i.percentile_00_5 = 3.0,
        |i| i.percentile_99_5 = 99.0,
    ] {
        let changed = hash(&|p| {
            ct(p);
            change(&mut p.channels[0].intensity);
        });
        assert_ne!(changed, of_ct);
    }
    let min = hash(&|p| {
        ct(p);
        p.channels[0].intensity.min = 3.0;
    });
    assert_eq!(min, of_ct);
}
