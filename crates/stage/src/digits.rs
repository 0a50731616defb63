//! Numbers for people.

/// A number with so many significant digits at most, without zeros behind the point; very large and small ones with an exponent.
pub fn digits(value: f64, significant: u8) -> String {
    let places = usize::from(significant.max(1)) - 1;
    let rounded: f64 = format!("{value:.places$e}").parse().unwrap_or(value);
    match rounded.abs() {
        0.0 | 1e-6..1e7 => format!("{rounded}"),
        _ => format!("{rounded:e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_rounded_and_zeros_left_out() {
        let cases = [
            (97.65625, "97.66"),
            (0.000_012_34, "0.00001234"),
            (1000.0, "1000"),
            (123_456.0, "123500"),
            (2.0, "2"),
            (-0.5, "-0.5"),
            (0.0, "0"),
            (1e30, "1e30"),
            (1.23456e-7, "1.235e-7"),
            (9.9996, "10"),
        ];
        for (value, expected) in cases {
            assert_eq!(digits(value, 4), expected);
        }
        assert_eq!((digits(1234.5, 2), digits(f64::INFINITY, 3)), ("1200".into(), "inf".into()));
    }
}
