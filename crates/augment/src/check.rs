//! Whether cases, previous predictions and recipe fit together.

use artifact::case::OpenCase;
use artifact::plan::Configuration;
use artifact::previous::OpenPrevious;
use stage::Error;
use std::fmt::Display;

/// Checks the cases of a loader; the number of image channels and of channels for the previous stage.
pub(crate) fn check_cases(
    cases: &[OpenCase],
    configuration: &Configuration,
) -> Result<[usize; 2], Error> {
    let Some(first) = cases.first() else {
        return Err(Error::input("no case to draw patches from, expected at least one"));
    };
    let first = &first.record.body.case;
    let network = &configuration.network;
    let previous = configuration.previous_stage.as_ref().map_or(0, |_| first.classes - 1);
    for case in cases {
        let info = &case.record.body.case;
        let wrong = |field: &str, found: &dyn Display, expected: String| {
            Error::input(format!("case {}: {field} = {found}, expected {expected}", info.id))
                .hint("this case was preprocessed for another plan; re-run nnu-preprocess for it")
        };
        if !info.labelled {
            return Err(wrong("labelled", &false, "a case with a label".into())
                .hint("only cases with a label can be trained on; leave it out of splits.toml"));
        }
        if info.channels + previous != network.input_channels {
            let channels = network.input_channels;
            let expected = match previous {
                0 => format!("{channels} (network.input_channels)"),
                n => format!(
                    "{} (network.input_channels {channels}, less {n} of the previous stage)",
                    channels.saturating_sub(n)
                ),
            };
            return Err(wrong("channels", &info.channels, expected));
        }
        let (field, outputs) = match info.regions {
            0 => ("classes", info.classes),
            n => ("regions", n),
        };
        if outputs != network.output_channels {
            let expected = format!("{} (network.output_channels)", network.output_channels);
            return Err(wrong(field, &outputs, expected));
        }
        let agree = [
            ("configuration", info.configuration.clone(), first.configuration.clone()),
            ("classes", info.classes.to_string(), first.classes.to_string()),
            ("ignore", info.ignore.to_string(), first.ignore.to_string()),
        ];
        for (field, found, expected) in agree {
            if found != expected {
                return Err(wrong(field, &found, format!("{expected} as case {}", first.id)));
            }
        }
    }
    Ok([first.channels, previous])
}

/// Checks the previous stage's predictions against the cases.
pub(crate) fn check_previous(
    cases: &[OpenCase],
    stage: Option<&str>,
    previous: &[OpenPrevious],
) -> Result<(), Error> {
    let Some(stage) = stage else {
        return Err(Error::input(
            "predictions of a previous stage were given, but this configuration has none",
        )
        .hint("only a cascade's second stage takes them; leave out --previous"));
    };
    if cases.len() != previous.len() {
        return Err(Error::input(format!(
            "predictions of {stage} for {} cases, expected one for each of {}",
            previous.len(),
            cases.len()
        )));
    }
    for (case, previous) in cases.iter().zip(previous) {
        let (info, found) = (&case.record.body.case, &previous.record.body.previous);
        let fields = [
            ("case", found.case.clone(), info.id.clone()),
            ("configuration", found.configuration.clone(), stage.to_string()),
            ("grid", found.grid.clone(), info.configuration.clone()),
            ("classes", found.classes.to_string(), info.classes.to_string()),
            ("shape", format!("{:?}", found.shape), format!("{:?}", info.shape)),
        ];
        for (field, found, expected) in fields {
            if found != expected {
                return Err(Error::input(format!(
                    "previous stage's prediction for case {}: previous.{field} = {found}, expected {expected}",
                    info.id
                ))
                .hint("predict the cases again with the first stage: nnu-infer --validation --next-stage"));
            }
        }
    }
    Ok(())
}

pub(crate) fn check_augmentation(a: &artifact::recipe::Augmentation) -> Result<(), Error> {
    let orders = [
        ("image_order", a.image_order, "0, 1 or 3", !matches!(a.image_order, 0 | 1 | 3)),
        ("label_order", a.label_order, "0 or 1", !matches!(a.label_order, 0 | 1)),
    ];
    for (key, found, expected, wrong) in orders {
        if wrong {
            return Err(Error::input(format!(
                "recipe.augmentation.{key} = {found}, expected {expected}"
            )));
        }
    }
    if !a.elastic_sigma[0].is_normal() && a.elastic_probability > 0.0 {
        return Err(Error::input(format!(
            "recipe.augmentation.elastic_sigma = {:?}, expected a positive width",
            a.elastic_sigma
        )));
    }
    Ok(())
}
