//! The line that a panic prints: it is a bug in plm-fleet, and one line is enough to report it.

use std::panic::{self, PanicHookInfo};
use std::sync::Mutex;
use std::{env, thread};

use crate::voice::{self, Kind};

/// Makes each panic print one line with its place, and its backtrace if `RUST_BACKTRACE` asks for
/// it.
pub(crate) fn say_panics_in_a_line() {
    let backtrace = panic::take_hook();
    let said = Mutex::new(Kind::default());
    panic::set_hook(Box::new(move |panic| {
        if env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            backtrace(panic);
        }
        // No `unwrap`: a panic in this hook would end the process.
        let line = match said.lock() {
            Ok(mut said) => said.next(|| line(panic)),
            Err(_) => Some(line(panic)),
        };
        if let Some(line) = line {
            voice::say(&line);
        }
    }));
}

fn line(panic: &PanicHookInfo<'_>) -> String {
    let message = panic
        .payload_as_str()
        .unwrap_or("a panic without a message");
    let place = panic.location().map_or_else(
        || "an unknown place".to_owned(),
        |place| format!("{}:{}:{}", place.file(), place.line(), place.column()),
    );
    let thread = thread::current();
    format!(
        "error: a bug in plm-fleet {}, at {place}, in thread {}: {}; please report this line",
        plm_fleet::VERSION,
        thread.name().unwrap_or("(unnamed)"),
        message.replace('\n', " "),
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// The test below runs this one in a process of its own.
    #[test]
    #[ignore = "panics"]
    fn panics_many_times() {
        super::say_panics_in_a_line();
        for _ in 0..50 {
            let _ = std::panic::catch_unwind(|| panic!("it is\nno use"));
        }
    }

    #[test]
    fn panics_print_a_line_each_up_to_the_tenth() {
        let said = |backtrace: &str| {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--nocapture", "panics_many_times"])
                .env("RUST_BACKTRACE", backtrace)
                .output()
                .unwrap();
            String::from_utf8(output.stderr).unwrap()
        };
        let plain = said("0");
        let lines: Vec<&str> = plain
            .lines()
            .filter(|line| line.contains("it is"))
            .collect();
        assert_eq!(lines.len(), 10, "{plain}");
        for words in [
            "error: a bug in plm-fleet",
            "bug.rs:",
            "it is no use",
            "please report",
        ] {
            assert!(lines[0].contains(words), "{}", lines[0]);
        }
        assert!(
            !plain.contains("panicked") && !plain.contains("backtrace"),
            "{plain}"
        );
        assert!(said("1").contains("stack backtrace"));
    }
}
