//! Callers who share a connection: every account is what their answers say.

#![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::process::Command;

#[test]
fn what_callers_who_share_a_connection_were_told_is_so() {
    for more in [["--batch", "1", "--mix", "plain"], ["--batch", "1", "--mix", "full"]] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.json");
        let output = Command::new(env!("CARGO_BIN_EXE_heng-loadgen"))
            .args(["run", "--spawn", "--accounts", "100", "--transfers", "20000", "--callers", "100", "--json"])
            .arg(&path)
            .args(more)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let run: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!((run["verified"].as_bool(), run["transfers"].as_u64()), (Some(true), Some(20_000)), "{said}");
        assert_eq!(run["run"]["callers"], 100, "{said}");
    }
}
