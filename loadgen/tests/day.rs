//! The day simulation against a server of its own: every injected break is found, and nothing else.

#![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::process::Command;

#[test]
fn a_simulated_day_ends_with_every_break_found_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("day.json");
    for seed in ["1", "2"] {
        let output = Command::new(env!("CARGO_BIN_EXE_heng-loadgen"))
            .args(["day", "--spawn", "--merchants", "60", "--payments", "4000", "--seed", seed, "--json"])
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let day: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(day.get("payments"), Some(&4_000.into()), "{said}");
        assert_eq!(day.get("breaks_injected"), Some(&25.into()), "{said}");
        assert_eq!(day.get("breaks_found"), Some(&25.into()), "{said}");
        for nothing in ["netted_sum", "false_breaks", "unsettled"] {
            assert_eq!(day.get(nothing), Some(&0.into()), "{nothing}: {said}");
        }
        assert_eq!(day.get("verified"), Some(&true.into()), "{said}");
    }
}
