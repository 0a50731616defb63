//! Training on the CUDA engine as a user meets it. `--device sim` is the engine on the kernel simulator, which only
//! tests have; with `NNU_TEST_CUDA` set, card 0 trains too.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use artifact::model::{History, Model};
use support::{Bench, load};

fn devices() -> Vec<&'static str> {
    #[expect(clippy::disallowed_methods, reason = "a switch of tests, not of programs")]
    let card = std::env::var("NNU_TEST_CUDA");
    match card.as_deref() {
        Err(_) => vec!["sim"],
        Ok("only") => vec!["cuda:0"],
        Ok(_) => vec!["sim", "cuda:0"],
    }
}

/// Batches that the card augments, epochs and the validation cases' prediction: the losses are the CPU's. The batches
/// agree to rounding, but a label voxel may flip where two classes weigh the same, and Adam's first steps have the size of
/// the learning rate however small a gradient is: 3e-3 were seen in f32.
#[test]
fn a_card_trains_as_the_cpu() {
    let bench = Bench::new();
    bench.trained("cpu", &["--device", "cpu"]);
    let expected: History = load(&bench.path("cpu/history.toml"));
    for device in devices() {
        for (precision, tolerance) in [("f32", 1e-2), ("bf16", 5e-2)] {
            let model = format!("{device}-{precision}");
            let flags = ["--device", device, "--precision", precision];
            let ended = bench.train(&model, &flags);
            assert_eq!(ended.code, 0, "{}", ended.said);
            assert!(ended.said.contains(&format!("device {device} (")), "{}", ended.said);
            assert!(ended.said.contains(&format!("), {precision}\n")), "{}", ended.said);
            assert!(ended.said.contains("% waiting for data"), "{}", ended.said);
            let record: Model = load(&bench.path(&model).join("model.toml"));
            assert_eq!(record.model.precision, precision);
            let found: History = load(&bench.path(&model).join("history.toml"));
            assert_eq!(found.epochs.len(), expected.epochs.len());
            for (f, e) in found.epochs.iter().zip(&expected.epochs) {
                for (f, e) in [(f.train_loss, e.train_loss), (f.validation_loss, e.validation_loss)]
                {
                    assert!((f - e).abs() < tolerance, "{model}: {f} != {e}");
                }
            }
        }
    }
}

/// The same bytes whether a training runs through or is stopped after its first epoch and goes on.
#[test]
fn a_training_on_a_card_goes_on_to_the_same_bytes() {
    let bench = Bench::new();
    for device in devices() {
        let at_once = bench.trained(&format!("{device}-at-once"), &["--device", device]);
        let stopped = format!("{device}-stopped");
        bench.trained(&stopped, &["--device", device, "--epochs", "1"]);
        let resumed = bench.trained(&stopped, &["--device", device]);
        assert!(at_once["weights.npz"] == resumed["weights.npz"], "{device}: weights");
    }
}

/// A checkpoint of one engine is not silently taken by another.
#[test]
fn another_device_is_another_training() {
    let bench = Bench::new();
    bench.trained("model", &["--device", "cpu", "--epochs", "1"]);
    let ended = bench.train("model", &["--device", devices()[0]]);
    assert_ne!(ended.code, 0);
    assert!(ended.said.contains("belongs to a training with other settings"), "{}", ended.said);
}
