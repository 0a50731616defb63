//! What is wrong with one image ends one case.

use crate::world::{World, geometry, image, plan};
use artifact::Provenance;
use artifact::nifti::{self, Geometry};
use infer::prepare::{Job, Prefetch};
use infer::units::{Source, Unit};
use ndarray::Axis;
use stage::Exit;

const ONE: &str = "--model fold_0 --images images --out out";

/// An image of the world's voxels whose header says this spacing, in millimetres (2), metres (1) or micrometres (3).
fn spaced(world: &World, id: &str, spacing: f64, unit: u8) {
    let mut geometry = Geometry::plain(crate::world::SHAPE, [spacing; 3]);
    geometry.header[123] = unit;
    for (c, channel) in image(0).outer_iter().enumerate() {
        let bytes = nifti::encode_image(channel.insert_axis(Axis(0)), &geometry, true).unwrap();
        world.file(&format!("images/{id}_{c:04}.nii.gz"), &bytes);
    }
}

#[test]
fn images_that_no_memory_holds_fail_alone() {
    let world = World::new();
    let lost = ["0_huge", "0_large", "0_metre", "c_cut"];
    spaced(&world, "0_metre", 1.0, 1);
    spaced(&world, "0_large", 1e6, 2);
    spaced(&world, "0_huge", 1e30, 2);
    let bytes = world.bytes("images/a_0001.nii.gz");
    world.file("images/c_cut_0000.nii.gz", &world.bytes("images/a_0000.nii.gz"));
    world.file("images/c_cut_0001.nii.gz", &bytes[..bytes.len() / 2]);
    let said = world.fails(ONE, 3);
    for id in &lost[..3] {
        let line = said.lines().find(|l| l.contains(&format!("error: {id}: "))).unwrap();
        assert!(line.contains(" become ") && line.contains(" GiB"), "{line}");
    }
    assert!(said.contains(&format!("4 of 6 cases failed: {}", lost.join(", "))), "{said}");
    let found = std::fs::read_dir(world.path("out")).unwrap();
    let mut found: Vec<_> = found.map(|e| e.unwrap().file_name()).collect();
    found.sort();
    assert_eq!(found, ["a", "b"]);
    // The same call says the same of these and leaves the others alone.
    let again = world.fails(ONE, 3);
    assert!(again.contains("4 of 6 cases failed"), "{again}");
}

#[test]
fn an_image_that_all_but_vanishes_is_said() {
    let world = World::new();
    spaced(&world, "tiny", 1.0, 3);
    let log = world.done(ONE);
    let warnings: Vec<&str> = log.lines().filter(|l| l.contains("warning")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("tiny: ") && warnings[0].contains("become 1 × 1 × 1"), "{log}");
}

#[test]
fn a_panic_while_a_case_is_prepared_is_that_case_s_failure() {
    let world = World::new();
    let mut plan = plan();
    // An order that no plan with a passed check has, and at which resampling panics.
    plan.recipe.preprocessing.image_order = 7;
    let files =
        |id: &str| (0..2).map(|c| world.path(&format!("images/{id}_{c:04}.nii.gz"))).collect();
    let unit = |id: &str| Unit { id: id.into(), source: Source::Images(files(id)) };
    let job = Job {
        plan,
        configurations: vec!["3d_fullres".into()],
        given: None,
        next: None,
        cascade: false,
        out: world.path("out"),
        provenance: Provenance::default(),
        outputs: stage::Outputs::new("infer", true),
    };
    let nexts: Vec<_> = Prefetch::new(job, vec![unit("a"), unit("b")]).collect();
    assert_eq!(nexts.len(), 2, "the thread went on");
    for next in nexts {
        let error = next.result.unwrap_err();
        assert_eq!(error.exit, Exit::Failed);
        assert!(error.message.starts_with("a fault of this program: "), "{}", error.message);
    }
}

/// A batch's own output isn't one of its inputs, wherever the folder that `--out` names lies.
#[test]
fn an_image_is_never_replaced_by_a_prediction() {
    let world = World::new();
    let bytes = nifti::encode_image(image(0).view(), &geometry(), true).unwrap();
    let [alone, folder, link] =
        ["a/segmentation.nii.gz", "o/segmentation/segmentation.nii.gz", "linked/c.nii.gz"];
    for file in [alone, folder, link] {
        world.file(file, &bytes);
    }
    std::fs::create_dir_all(world.path("p/b")).unwrap();
    std::fs::hard_link(world.path(link), world.path("p/b/segmentation.nii.gz")).unwrap();
    for (line, lost) in [
        (format!("--image {alone} --id a --out ."), alone),
        ("--images o/segmentation --out o".into(), folder),
        // Another case's image.
        ("--images linked --out p".into(), link),
    ] {
        if lost == link {
            world.file("linked/b.nii.gz", &bytes);
        }
        let said = world.fails(&format!("--model fold_0 {line}"), 2);
        assert!(said.contains(&format!("{lost}: would be written for --out")), "{said}");
        assert!(world.bytes(lost) == bytes, "{line} replaced {lost}");
    }
    // A prediction that is predicted from again.
    world.done("--model fold_0 --image a/segmentation.nii.gz --id a --out pred");
    let before = world.bytes("pred/a/segmentation.nii.gz");
    let line = "--model fold_0 --image pred/a/segmentation.nii.gz --id a --out pred";
    world.fails(line, 2);
    assert!(world.bytes("pred/a/segmentation.nii.gz") == before);
}
