//! A short `soak` with restarts of both kinds, and its chart.

#![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::process::Command;

#[test]
fn a_server_that_is_restarted_under_load_keeps_every_account_and_its_course_can_be_drawn() {
    let directory = tempfile::tempdir().unwrap();
    let (result, drawing) = (directory.path().join("soak.json"), directory.path().join("soak.svg"));
    let data = directory.path().join("data");
    let generator = || Command::new(env!("CARGO_BIN_EXE_heng-loadgen"));
    let soak = |minutes: &str, more: &[&str]| {
        let mut soak = generator();
        soak.args(["soak", "--minutes", minutes, "--restart-every-s", "2", "--close-every-s", "1"]).args(more);
        let output = soak.arg("--data-dir").arg(&data).arg("--json").arg(&result).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said)
    };
    let course = |(is_well, said): (bool, String)| {
        assert!(is_well, "{said}");
        let soak: serde_json::Value = serde_json::from_slice(&std::fs::read(&result).unwrap()).unwrap();
        assert_eq!((soak["verified"].as_bool(), soak["checked"].as_bool()), (Some(true), Some(true)), "{said}");
        (soak, said)
    };
    let (soak_alone, said) = course(soak("0.2", &["--rate", "400", "--accounts", "100", "--participants", "10"]));
    // Another one begins with a ledger of its own, or goes on with this one.
    let (is_begun, said_then) = soak("0.1", &["--rate", "400"]);
    assert!(!is_begun && said_then.contains("--go-on"), "{said_then}");
    let (soak, _) = course(soak("0.05", &["--go-on"]));
    let answered = |soak: &serde_json::Value| soak["answered"].as_u64().unwrap();
    assert!(answered(&soak) > answered(&soak_alone) + 500, "{said}");
    let expected = ["parts", "accounts", "participants", "rate"].map(|name| soak[name].as_u64().unwrap());
    assert_eq!(expected, [2, 100, 10, 400]);
    let last = soak["lives"].as_array().unwrap().last().unwrap()["answered"].as_u64().unwrap();
    assert!((answered(&soak_alone)..=answered(&soak)).contains(&last), "{last}");
    assert!(soak["accepted"].as_u64().unwrap() > 1_000 && soak["windows_closed"].as_u64().unwrap() > 0, "{said}");
    let marks: Vec<_> = soak["timeline"]["marks"].as_array().unwrap().iter().map(|mark| mark["what"].clone()).collect();
    assert!(marks.contains(&"part 2".into()), "{marks:?}");
    assert!(marks.contains(&"drain".into()) && marks.contains(&"kill -9".into()), "{marks:?}");
    let drawn = generator().arg("chart").args([&result, &drawing]).output().unwrap();
    assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
    let svg = std::fs::read_to_string(&drawing).unwrap();
    for text in ["transfers per second", "p99", "memory of the server", "room on disk"] {
        assert!(svg.contains(text), "{text}");
    }
    // What has no course over time cannot be drawn, and that is said.
    std::fs::write(&result, "{}").unwrap();
    let refused = generator().arg("chart").args([&result, &drawing]).output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no course over time"));
}
