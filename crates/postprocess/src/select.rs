//! The best single configuration or pair, by mean foreground Dice over the cross-validation.

use crate::score::mean;
use crate::table::number;
use artifact::selection::Selection;
use stage::Shown;
use std::fmt::Write;

/// Everything that is compared: single configurations in their order, then pairs.
pub fn candidates(configurations: usize, pairs: bool) -> Vec<Vec<usize>> {
    let singles = (0..configurations).map(|i| vec![i]);
    let second = if pairs { configurations } else { 0 };
    let pairs = (0..second).flat_map(|i| (i + 1..second).map(move |j| vec![i, j]));
    singles.chain(pairs).collect()
}

/// The candidate with the largest mean of its Dice per class; of equals the first, which is the simplest. None if no class
/// has a Dice.
pub fn best(dice: &[Vec<f64>]) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (at, dice) in dice.iter().enumerate() {
        let here = mean(dice.iter().copied());
        if !here.is_nan() && best.is_none_or(|(_, most)| here > most) {
            best = Some((at, here));
        }
    }
    best.map(|(at, _)| at)
}

/// One row per candidate: mean Dice, Dice per class or region; the selected one is marked.
pub fn text(selection: &Selection, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| Shown(name).to_string()).collect();
    let title = |configurations: &[String]| Shown(configurations.join(" + ")).to_string();
    let titles: Vec<String> =
        selection.candidates.iter().map(|c| title(&c.configurations)).collect();
    let width = titles.iter().map(|t| t.chars().count()).max().unwrap_or(0);
    let width = width.max("configurations".len());
    let mut out = format!("{:width$}  {:>9}", "configurations", "mean Dice");
    for name in &names {
        let _ = write!(out, "  {name:>6}");
    }
    out.push('\n');
    for (candidate, title) in selection.candidates.iter().zip(&titles) {
        let _ = write!(out, "{title:width$}  {:>9}", number(candidate.mean_dice).trim());
        for (name, dice) in names.iter().zip(&candidate.dice) {
            let _ = write!(out, "  {:>1$}", number(*dice).trim(), name.chars().count().max(6));
        }
        let chosen = candidate.configurations == selection.selection.configurations;
        out.push_str(if chosen { "  selected\n" } else { "\n" });
    }
    let after = selection.selection.mean_dice_postprocessed;
    if !after.is_nan() {
        let _ = writeln!(out, "{:width$}  {:>9}", "postprocessed", number(after).trim());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn singles_come_first_and_win_ties() {
        assert_eq!(
            candidates(3, true),
            [vec![0], vec![1], vec![2], vec![0, 1], vec![0, 2], vec![1, 2]]
        );
        assert_eq!(candidates(3, false), [[0], [1], [2]]);
        let nan = f64::NAN;
        assert_eq!(best(&[vec![nan], vec![0.5, nan], vec![0.2, 0.8], vec![0.1, 0.8]]), Some(1));
        assert_eq!(best(&[vec![0.5], vec![0.6]]), Some(1));
        assert_eq!(best(&[vec![nan]]), None);
    }
}
