//! Numbers as people read them.

/// `1234567` as `1,234,567`.
pub(crate) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut words = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            words.push(',');
        }
        words.push(digit);
    }
    words
}

/// Seconds as `4.2 s`, `1 min 1 s` or `2 h 1 min`.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let minutes = (seconds / 60.0) as u64;
    if minutes < 60 {
        format!("{minutes} min {} s", seconds as u64 % 60)
    } else {
        format!("{} h {} min", minutes / 60, minutes % 60)
    }
}

/// Bytes as `999 bytes`, `1.5 MB` or `12.0 GB`: thousands, as disks are sold.
pub(crate) fn bytes(value: u64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.iter().find(|(size, _)| value as f64 >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", value as f64 / size),
        None => count(value, "byte"),
    }
}

/// `1 record`, `2 records`.
pub(crate) fn count(value: u64, thing: &str) -> String {
    format!(
        "{} {thing}{}",
        number(value),
        if value == 1 { "" } else { "s" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_a_comma_every_three_digits() {
        for (value, words) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1234567, "1,234,567"),
        ] {
            assert_eq!(number(value), words);
        }
    }

    #[test]
    fn bytes_are_in_the_unit_that_fits() {
        for (value, words) in [
            (1, "1 byte"),
            (999, "999 bytes"),
            (1_500_000, "1.5 MB"),
            (12_000_000_000, "12.0 GB"),
        ] {
            assert_eq!(bytes(value), words);
        }
    }

    #[test]
    fn durations_are_in_the_unit_that_fits() {
        for (seconds, words) in [
            (0.04, "0.0 s"),
            (59.0, "59.0 s"),
            (61.5, "1 min 1 s"),
            (7_260.0, "2 h 1 min"),
        ] {
            assert_eq!(duration(seconds), words);
        }
    }
}
