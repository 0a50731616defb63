//! A summary as text for people and as CSV for their programs.

use crate::score::mean;
use artifact::summary::Summary;
use stage::Shown;
use std::fmt::Write;

/// One row per foreground class or region: in how many cases its Dice is a number, mean, smallest, median, largest, and mean IoU;
/// then the means over the classes.
pub fn text(summary: &Summary) -> String {
    let names: Vec<String> = summary.names().iter().map(|n| Shown(n).to_string()).collect();
    let widths = names.iter().map(|name| name.chars().count());
    let width = widths.max().unwrap_or(0).max("foreground mean".len());
    let mut out = format!(
        "{:width$}  {:>9}  {:>6}  {:>6}  {:>6}  {:>6}  {:>6}\n",
        "class", "cases", "Dice", "min", "median", "max", "IoU"
    );
    for (class, name) in names.iter().enumerate() {
        let mut dice: Vec<f64> =
            summary.cases.iter().map(|c| c.classes[class].dice).filter(|d| !d.is_nan()).collect();
        dice.sort_by(f64::total_cmp);
        let cases = format!("{}/{}", dice.len(), summary.cases.len());
        let _ = writeln!(
            out,
            "{:width$}  {cases:>9}  {}  {}  {}  {}  {}",
            name,
            number(mean(dice.iter().copied())),
            number(dice.first().copied().unwrap_or(f64::NAN)),
            number(median(&dice)),
            number(dice.last().copied().unwrap_or(f64::NAN)),
            number(summary.mean.iou[class]),
        );
    }
    let (dice, iou) = (summary.mean.foreground_dice, summary.mean.foreground_iou);
    let blank = "";
    let _ = writeln!(
        out,
        "{:width$}  {blank:9}  {}  {blank:22}  {}",
        "foreground mean",
        number(dice),
        number(iou)
    );
    out
}

/// Four decimals; a dash where there is no number.
pub(crate) fn number(value: f64) -> String {
    if value.is_nan() { format!("{:>6}", "-") } else { format!("{value:>6.4}") }
}

/// Median of sorted values.
fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    if n == 0 {
        return f64::NAN;
    }
    (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0
}

/// The first line of [`csv`].
pub const CSV_HEADER: &str = "case,label,dice,iou,true_positives,false_positives,false_negatives,true_negatives,predicted_ml,reference_ml";

/// One line per case and foreground class or region. Missing numbers are empty fields.
pub fn csv(summary: &Summary) -> String {
    let mut out = format!("{CSV_HEADER}\n");
    let field = |v: f64| if v.is_nan() { String::new() } else { v.to_string() };
    for case in &summary.cases {
        for c in &case.classes {
            let _ = writeln!(
                out,
                "{},{},{},{},{},{},{},{},{},{}",
                quoted(&case.case),
                quoted(&c.label),
                field(c.dice),
                field(c.iou),
                c.true_positives,
                c.false_positives,
                c.false_negatives,
                c.true_negatives,
                field(c.predicted_ml),
                field(c.reference_ml),
            );
        }
    }
    out
}

/// A text field; quoted where a comma or a quote needs it (RFC 4180).
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::Scheme;
    use crate::score::{Counts, summarise};
    use artifact::Label;
    use std::collections::BTreeMap;

    fn summary() -> Summary {
        let label = |name: &str, value| Label { name: name.into(), value };
        let labels = vec![label("background", 0), label("left, upper", 1), label("spleen", 4)];
        let scheme = Scheme::plain(labels);
        let case = |both| {
            let pairs =
                [((1, 1), both), ((1, 0), 10 - both), ((0, 1), 10 - both), ((0, 0), 80 + both)];
            Counts { pairs: BTreeMap::from(pairs) }.scores(&scheme, 0.5)
        };
        let cases = vec![("b".into(), case(5)), ("a".into(), case(10)), ("c".into(), case(7))];
        summarise(&scheme, cases)
    }

    #[test]
    fn the_table_gives_spread_and_means_and_a_dash_for_a_class_that_no_case_has() {
        let expected = "\
class                cases    Dice     min  median     max     IoU
left, upper            3/3  0.7333  0.5000  0.7000  1.0000  0.6239
spleen                 0/3       -       -       -       -       -
foreground mean             0.7333                          0.6239
";
        assert_eq!(text(&summary()), expected);
    }

    #[test]
    fn csv_quotes_commas_and_leaves_missing_numbers_empty() {
        let csv = csv(&summary());
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 7);
        assert_eq!(lines[1], "a,\"left, upper\",1,1,10,0,0,90,5,5");
        assert_eq!(lines[4], "b,spleen,,,0,0,0,100,0,0");
    }
}
