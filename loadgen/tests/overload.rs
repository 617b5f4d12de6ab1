//! A short `overload`: far more than the server takes, of which it refuses the most and loses nothing.

#![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::process::Command;

#[test]
fn what_is_too_much_is_refused_busy_and_what_is_accepted_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let result = directory.path().join("overload.json");
    let output = Command::new(env!("CARGO_BIN_EXE_heng-loadgen"))
        .args(["overload", "--times", "20", "--seconds", "3", "--peak-seconds", "1", "--batch", "100"])
        .args([
            "--connections",
            "8",
            "--accounts",
            "100",
            "--transfers-in-flight-max",
            "40000",
            "--least",
            "0.3",
            "--json",
        ])
        .arg(&result)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&result).unwrap()).unwrap();
    assert_eq!(told["verified"].as_bool(), Some(true), "{said}");
    let overload = &told["overload"];
    assert!(overload["refused"].as_u64().unwrap() > 0, "{said}");
    let (offered, accepted) =
        (overload["offered_per_s"].as_f64().unwrap(), overload["accepted_per_s"].as_f64().unwrap());
    assert!(accepted > 0.0 && offered > accepted, "{said}");
    for line in ["peak", "refused", "memory", "normal"] {
        assert!(said.contains(line), "{line}: {said}");
    }
}
