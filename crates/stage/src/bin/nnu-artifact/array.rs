//! Any array as a stream of f64, and what is in it.

/// What an array holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Statistics {
    min: f64,
    max: f64,
    sum: f64,
    finite: u64,
    not_finite: u64,
}

impl Statistics {
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let start =
            Self { min: f64::INFINITY, max: f64::NEG_INFINITY, sum: 0.0, finite: 0, not_finite: 0 };
        values.fold(start, |s, v| {
            if !v.is_finite() {
                return Self { not_finite: s.not_finite + 1, ..s };
            }
            Self { min: s.min.min(v), max: s.max.max(v), sum: s.sum + v, finite: s.finite + 1, ..s }
        })
    }

    pub fn text(&self) -> String {
        let mut text = if self.finite == 0 {
            "no numbers".to_string()
        } else {
            let mean = self.sum / self.finite as f64;
            format!("min {}  max {}  mean {}", short(self.min), short(self.max), short(mean))
        };
        if self.not_finite > 0 {
            text += &format!("  {} NaN or infinite", self.not_finite);
        }
        text
    }
}

/// Six significant digits.
pub fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let magnitude = value.abs().log10().floor();
    if !(-4.0..=9.0).contains(&magnitude) {
        return format!("{value:.5e}");
    }
    let decimals = (5.0 - magnitude).max(0.0) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        return text.trim_end_matches('0').trim_end_matches('.').to_string();
    }
    text
}

/// `812 B`, `3.4 kB`, `1.2 GB`.
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// The place of an element in an array of this shape (C order), such as `[0, 3, 2, 1]`.
pub fn place(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (axis, &edge) in shape.iter().enumerate().rev() {
        index[axis] = at % edge.max(1);
        at /= edge.max(1);
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_leave_out_what_is_no_number_and_count_it() {
        let s = Statistics::of([1.0, f64::NAN, -3.0, f64::INFINITY].into_iter());
        assert_eq!(s.text(), "min -3  max 1  mean -1  2 NaN or infinite");
        assert_eq!(Statistics::of([f64::NAN].into_iter()).text(), "no numbers  1 NaN or infinite");
    }

    #[test]
    fn numbers_are_cut_to_six_digits() {
        for (value, text) in [
            (0.1234567, "0.123457"),
            (123_456_789.0, "123456789"),
            (-1.5, "-1.5"),
            (1.25e-9, "1.25000e-9"),
            (0.0, "0"),
            (100.0, "100"),
        ] {
            assert_eq!(short(value), text);
        }
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_250_000), "1.2 MB");
    }

    #[test]
    fn places_are_c_order() {
        assert_eq!(place(23, &[2, 3, 4]), [1, 2, 3]);
        assert_eq!(place(5, &[2, 3, 4]), [0, 1, 1]);
    }
}
