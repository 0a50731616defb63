//! Cases whose spacing or size lies far from the others': a header in metres or micrometres, slices counted as
//! millimetres, a scout among scans. Resampled to the others' spacing such a case loses an axis or grows beyond memory.
//!
//! Lengths are compared as ratios to the median, largest axis first, so that scans stored in another order of axes are
//! no outliers. Spacings are compared as they are stored, too: slices far thinner than the case's own pixels hide behind
//! those once they are sorted. A ratio counts as far only beyond a fixed limit and beyond what the data set's
//! own spread makes likely.

use crate::problem::{Class, Problem};
use artifact::fingerprint::MeasuredCase;
use stage::digits;

/// A length that differs from the median by more than this factor. Slices of 5 mm among slices of 0.7 mm differ by 7 and
/// are common in collections of CT; centimetres differ by 10, metres by 1000.
const FAR: f64 = 8.0;

/// A voxel's volume likewise: slices eight times as thick with pixels twice as large make 32.
const FAR_VOLUME: f64 = 32.0;

/// … and by more than so many standard deviations, estimated from the median deviation. Where two protocols are mixed half
/// and half, neither is far.
const DEVIATIONS: f64 = 6.0;

/// … which excuses no factor beyond this: neither that of one case to the median nor that of one half to the other. Whole
/// bodies and microscopes have it, one data set doesn't.
const UNEXCUSED: f64 = 100.0;

/// Another order of axes explains a case if it leaves less than this share of what the stored order leaves (sums of the
/// axes' deviations in logarithms). A sagittal scan among axial ones leaves 0 of the same protocol and one half of slices
/// a third as thick; one axis off by itself leaves as much in any order, or 0.8 where its pixels differ by a third too.
const EXPLAINED: f64 = 0.7;

/// In the stored order a length is far only if it's also so many times finer than the finest of the case's other axes, or
/// coarser than the coarsest. CT's slices of 0.5 mm with pixels of 0.7 to 1 mm are common among slices of 5 mm.
const ALONE: f64 = 2.0;

/// Standard deviations per median deviation of a normal distribution.
const NORMAL: f64 = 1.4826;

/// Outliers among all cases, at most one finding per case.
pub fn outliers(cases: &[MeasuredCase]) -> Vec<Problem> {
    let stored: Vec<_> = cases.iter().map(|case| case.spacing_mm).collect();
    let spacings: Vec<_> = stored.iter().copied().map(sorted).collect();
    let sizes: Vec<_> = cases.iter().map(|case| sorted(extent_mm(case))).collect();
    let stored = Spread::of(&stored);
    let (spacing, size) = (Spread::of(&spacings), Spread::of(&sizes));
    let first = |spread: &Spread| format!("{} (largest first)", lengths(spread.median()));
    let of_case = |(case, (spaced, sized)): (&MeasuredCase, (&[f64; 3], &[f64; 3]))| {
        let all = "the median of all cases is";
        let far = spacing.far(spaced, true).map(|factor| (factor, first(&spacing)));
        let as_stored = || far_as_stored((&stored, case.spacing_mm), (&spacing, spaced));
        if let Some((factor, median)) = far.or_else(as_stored) {
            let found = lengths(case.spacing_mm);
            let factor = times(factor, "coarser", "finer");
            let detail =
                format!("{found} mm (z, y, x), {all} {median}: {factor}; is its header in mm?");
            return Some(Problem::new(Class::SpacingOutlier, &case.id, detail));
        }
        let factor = size.far(sized, false)?;
        let (found, median) = (lengths(extent_mm(case)), first(&size));
        let factor = times(factor, "longer", "shorter");
        let detail = format!("{found} mm (z, y, x), {all} {median}: {factor}");
        Some(Problem::new(Class::SizeOutlier, &case.id, detail))
    };
    cases.iter().zip(spacings.iter().zip(&sizes)).filter_map(of_case).collect()
}

/// Edges of the whole image.
fn extent_mm(case: &MeasuredCase) -> [f64; 3] {
    std::array::from_fn(|axis| case.shape[axis] as f64 * case.spacing_mm[axis])
}

fn sorted(mut lengths: [f64; 3]) -> [f64; 3] {
    lengths.sort_by(|a, b| b.total_cmp(a));
    lengths
}

/// Ratio of a spacing to the median if it's far in the stored order only, and the median.
fn far_as_stored(
    (stored, spacing): (&Spread, [f64; 3]),
    (largest_first, spaced): (&Spread, &[f64; 3]),
) -> Option<(f64, String)> {
    let factor = stored.far(&spacing, false)?;
    let [a, b, c] = *spaced;
    // Largest first: the neighbours of either end.
    let alone = if factor < 1.0 { b / c } else { a / b } > ALONE;
    let explained = largest_first.apart(spaced) < EXPLAINED * stored.apart(&spacing);
    (alone && !explained).then(|| (factor, lengths(stored.median())))
}

/// Medians of the logarithms, and how far from them is far: per axis and of the product.
struct Spread {
    medians: [f64; 4],
    limits: [f64; 4],
}

/// Logarithms of three lengths and of their product.
fn logs(lengths: &[f64; 3]) -> [f64; 4] {
    let [a, b, c] = lengths.map(f64::ln);
    [a, b, c, a + b + c]
}

impl Spread {
    fn of(all: &[[f64; 3]]) -> Self {
        let logs: Vec<[f64; 4]> = all.iter().map(logs).collect();
        let column = |i: usize| logs.iter().map(move |row| row[i]);
        let medians: [f64; 4] = std::array::from_fn(|i| median(column(i).collect()));
        let limits = std::array::from_fn(|i| {
            let fixed = if i == 3 { FAR_VOLUME } else { FAR };
            // Of two cases each is the other's deviation.
            let own = if logs.len() < 3 {
                0.0
            } else {
                median(column(i).map(|v| (v - medians[i]).abs()).collect())
            };
            // A voxel's volume has the factors of three axes.
            let unexcused = UNEXCUSED.ln() * if i == 3 { 3.0 } else { 1.0 };
            let own = if gap(column(i).collect()) > unexcused { 0.0 } else { own };
            fixed.ln().max(unexcused.min(DEVIATIONS * NORMAL * own))
        });
        Self { medians, limits }
    }

    /// How far the three lengths are from their medians together.
    fn apart(&self, lengths: &[f64; 3]) -> f64 {
        logs(lengths)[..3]
            .iter()
            .zip(&self.medians)
            .map(|(found, median)| (found - median).abs())
            .sum()
    }

    /// The largest ratio to the median, if it's far; products are asked too, if wanted.
    fn far(&self, lengths: &[f64; 3], product: bool) -> Option<f64> {
        let logs = logs(lengths);
        let deviation = |i: usize| logs[i] - self.medians[i];
        let count = if product { 4 } else { 3 };
        let far = (0..count).any(|i| deviation(i).abs() > self.limits[i]);
        let largest = (0..3).map(deviation).max_by(|a, b| a.abs().total_cmp(&b.abs()));
        largest.filter(|_| far).map(f64::exp)
    }

    fn median(&self) -> [f64; 3] {
        let [a, b, c, _] = self.medians.map(f64::exp);
        [a, b, c]
    }
}

/// The mean of the middle two of an even number; 0 of none.
fn median(values: Vec<f64>) -> f64 {
    let [low, high] = middle(values);
    (low + high) / 2.0
}

/// How far the two halves of an even number of values are apart.
fn gap(values: Vec<f64>) -> f64 {
    let [low, high] = middle(values);
    high - low
}

/// The middle two of an even number, twice the middle one of an odd; zeros of none.
fn middle(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => [0.0; 2],
        n => [values[(n - 1) / 2], values[n / 2]],
    }
}

fn times(factor: f64, more: &str, less: &str) -> String {
    if factor >= 1.0 {
        format!("{} times {more}", digits(factor, 3))
    } else {
        format!("{} times {less}", digits(1.0 / factor, 3))
    }
}

fn lengths(mm: [f64; 3]) -> String {
    mm.map(|mm| digits(mm, 3)).join(" × ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(index: usize, shape: [usize; 3], spacing_mm: [f64; 3]) -> MeasuredCase {
        MeasuredCase {
            id: format!("c{index}"),
            shape,
            spacing_mm,
            cropped_shape: shape,
            relative_size: 1.0,
            class_voxels: vec![1, 1],
        }
    }

    fn found(cases: &[([usize; 3], [f64; 3])]) -> Vec<(Class, String, String)> {
        let cases: Vec<_> =
            cases.iter().enumerate().map(|(i, &(shape, mm))| case(i, shape, mm)).collect();
        outliers(&cases).into_iter().map(|p| (p.class, p.subject, p.detail)).collect()
    }

    /// Ids of the outliers when the last of five like cases has this spacing.
    fn among(shape: [usize; 3], mm: [f64; 3], last: [f64; 3]) -> Vec<String> {
        let mut cases = vec![(shape, mm); 5];
        cases[4].1 = last;
        found(&cases).into_iter().map(|(.., id, _)| id).collect()
    }

    #[test]
    fn a_case_in_another_unit_is_named_with_both_spacings() {
        let shape = [12, 16, 20];
        for factor in [1e-3, 0.1, 4.0, 10.0, 25.4, 1e3, 1e6] {
            assert_eq!(among(shape, [1.0; 3], [factor; 3]), ["c4"], "{factor}");
        }
        // One axis alone.
        assert_eq!(among(shape, [5.0, 0.7, 0.7], [50.0, 0.7, 0.7]), ["c4"]);
        let mut cases = [(shape, [1.0; 3]); 3];
        cases[2].1 = [0.001; 3];
        let expected = "0.001 × 0.001 × 0.001 mm (z, y, x), the median of all cases is 1 × 1 × 1 (largest first): \
                        1000 times finer; is its header in mm?";
        assert_eq!(found(&cases), [(Class::SpacingOutlier, "c2".into(), expected.into())]);
        // Of two, nobody can say which.
        assert_eq!(found(&cases[1..]).len(), 2);
        assert_eq!(found(&cases[2..]), []);
        assert_eq!(found(&[]), []);
    }

    #[test]
    fn an_axis_alone_that_is_far_finer_is_named_though_sorting_hides_it() {
        let shape = [12, 16, 20];
        let mut cases = [(shape, [3.0, 1.0, 1.0]); 5];
        cases[4].1 = [0.3, 1.0, 1.0];
        let expected = "0.3 × 1 × 1 mm (z, y, x), the median of all cases is 3 × 1 × 1: 10 times finer; is its header in mm?";
        assert_eq!(found(&cases), [(Class::SpacingOutlier, "c4".into(), expected.into())]);
        for last in [[0.3, 1.3, 1.0], [0.3, 0.8, 0.8], [3.0, 1.0, 0.1], [3.0, 0.1, 1.0]] {
            assert_eq!(among(shape, [3.0, 1.0, 1.0], last), ["c4"], "{last:?}");
        }
        // Scans in another plane, also of another protocol; and finer by less than the limit.
        let silent = [
            ([10.0, 0.8, 0.8], [0.8, 10.0, 0.8]),
            ([10.0, 0.5, 0.5], [1.0, 3.0, 1.0]),
            ([10.0, 0.5, 0.5], [0.5, 0.5, 9.0]),
            ([3.0, 1.0, 1.0], [0.5, 1.0, 1.0]),
            ([5.0, 0.8, 0.8], [0.5, 0.7, 0.7]),
            ([5.0, 0.8, 0.8], [0.5, 0.98, 0.98]),
        ];
        for (mm, last) in silent {
            assert_eq!(among([20, 20, 20], mm, last), [""; 0], "{last:?}");
        }
        // Three planes by thirds.
        let planes = [[10.0, 0.8, 0.8], [0.8, 10.0, 0.8], [0.8, 0.8, 10.0]];
        assert_eq!(
            found(
                &[planes, planes]
                    .as_flattened()
                    .iter()
                    .map(|&mm| ([20; 3], mm))
                    .collect::<Vec<_>>()
            ),
            []
        );
    }

    #[test]
    fn halves_in_different_units_are_named() {
        let ids = |cases: &[([usize; 3], [f64; 3])]| {
            found(cases).into_iter().map(|(_, id, _)| id).collect::<Vec<_>>()
        };
        let (mm, metres) = (([20; 3], [1.0; 3]), ([20; 3], [0.001; 3]));
        assert_eq!(ids(&[mm, mm, metres, metres]), ["c0", "c1", "c2", "c3"]);
        // One axis alone.
        let slices = ([20; 3], [0.005, 1.0, 1.0]);
        assert_eq!(ids(&[mm, slices, mm, slices]), ["c0", "c1", "c2", "c3"]);
        // As far as scanners may be apart, and a case that no spread excuses.
        let scanner = |mm: f64| ([20; 3], [mm; 3]);
        assert_eq!(ids(&[scanner(1.0), scanner(90.0), scanner(1.0), scanner(90.0)]), [""; 0]);
        let spread = [0.1, 0.3, 1.0, 4.0, 10.0].map(scanner);
        assert_eq!(ids(&spread), [""; 0]);
        assert_eq!(ids(&[&spread[..], &[scanner(500.0)]].concat()), ["c5"]);
    }

    #[test]
    fn a_slice_among_volumes_is_named() {
        let mut cases = [([100, 64, 64], [1.0; 3]); 5];
        cases[1].0 = [1, 64, 64];
        let expected = "1 × 64 × 64 mm (z, y, x), the median of all cases is 100 × 64 × 64 (largest first): 64 times shorter";
        assert_eq!(found(&cases), [(Class::SizeOutlier, "c1".into(), expected.into())]);
    }

    #[test]
    fn mixed_protocols_are_no_outliers() {
        // Thick and thin slices, in any order of axes.
        let thick = ([40, 512, 512], [5.0, 0.8, 0.8]);
        let thin = ([512, 512, 300], [0.6, 0.6, 0.7]);
        let sagittal = ([512, 40, 512], [0.8, 5.0, 0.8]);
        assert_eq!(found(&[thick, thin, sagittal, thick, thin, thick, thick]), []);
        // Two scanners whose voxels differ tenfold along each axis, half and half.
        let (fine, coarse) = (([100; 3], [0.1; 3]), ([100; 3], [1.0; 3]));
        assert_eq!(found(&[fine, coarse, fine, coarse, fine, coarse]), []);
        // Pictures of many sizes.
        let picture = |height, width| ([1, height, width], [999.0, 1.0, 1.0]);
        let sizes =
            [picture(540, 722), picture(767, 1022), picture(4499, 6748), picture(1024, 1024)];
        assert_eq!(found(&sizes), []);
    }
}
