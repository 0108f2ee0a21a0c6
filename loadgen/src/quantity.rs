//! How figures are written for people.
//!
//! Owns: digits, separators and units of text and page alike. Must not: measure.

/// A whole number with a comma before each three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three digits that count, more where they stand before the point: 0.0812, 3.12, 31.2, 4,200.
pub(crate) fn three_digits(number: f64) -> String {
    if !number.is_finite() {
        return "?".into();
    }
    let size = number.abs();
    let places = match size {
        _ if size >= 99.95 => {
            return format!("{}{}", if number < 0.0 { "-" } else { "" }, grouped(size.round() as u64));
        }
        _ if size >= 9.995 => 1,
        _ if size >= 0.9995 || size == 0.0 => 2,
        _ if size >= 0.09995 => 3,
        _ => 4,
    };
    format!("{number:.places$}")
}

/// The same without zeros that say nothing: 3.1, 50, 0.
pub(crate) fn short(number: f64) -> String {
    let text = three_digits(number);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// Bytes with a decimal unit: 512 MB are 512,000,000.
pub(crate) fn bytes(number: f64) -> String {
    let unit = match number.abs() {
        size if size < 10e3 => return format!("{} B", short(number)),
        size if size < 1e6 => ("KB", 1e3),
        size if size < 1e9 => ("MB", 1e6),
        _ => ("GB", 1e9),
    };
    format!("{} {}", short(number / unit.1), unit.0)
}

/// A value in one of the units of an objective.
pub(crate) fn with_unit(number: f64, unit: &str) -> String {
    match unit {
        "B" => bytes(number),
        "" | "connections" if number.fract() == 0.0 && number >= 0.0 => grouped(number as u64),
        "" | "connections" => short(number),
        unit => format!("{} {unit}", short(number)),
    }
}

/// A second or an hour: 35.2 s, 4 min 12 s.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 120.0 {
        return format!("{} s", short(seconds));
    }
    let whole = seconds.round() as u64;
    format!("{} min {} s", whole / 60, whole % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_three_digits_that_count() {
        let texts = [0.0, 0.08124, 0.9996, 3.1, 9.996, 31.24, 99.96, 4200.4].map(three_digits);
        assert_eq!(texts, ["0.00", "0.0812", "1.00", "3.10", "10.0", "31.2", "100", "4,200"]);
        assert_eq!([0.0, 3.1, 50.0, 0.5].map(short), ["0", "3.1", "50", "0.5"]);
        assert_eq!(three_digits(f64::NAN), "?");
    }

    #[test]
    fn units_are_decimal_and_separators_every_three_digits() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([397.0, 12_300.0, 512e6, 1.5e9].map(bytes), ["397 B", "12.3 KB", "512 MB", "1.5 GB"]);
        assert_eq!(with_unit(10_000.0, "connections"), "10,000");
        assert_eq!(with_unit(3.1, "ms"), "3.1 ms");
    }
}
