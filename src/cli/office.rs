//! What commands of the back office have in common: they speak to the operations port.

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use clap::Args;
use serde_json::Value;

use super::Failure;
use crate::protocol::{DEVELOPMENT_GATEWAY, DEVELOPMENT_KEY};

/// Which server's operations port, and as whom.
#[derive(Debug, Args)]
pub(super) struct OfficeArguments {
    /// Address of the server's operations port.
    #[arg(long, env = "HENG_OPERATIONS", default_value = "127.0.0.1:7401")]
    operations: String,
    /// The gateway to act as [default: the development gateway].
    #[arg(long, env = "HENG_GATEWAY", requires = "key")]
    gateway: Option<String>,
    /// The gateway's key, 64 hexadecimal digits.
    #[arg(long, env = "HENG_KEY", requires = "gateway", hide_env_values = true)]
    key: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// The body of a request.
pub(super) enum Body<'a> {
    /// Something as JSON.
    Json(&'a Value),
    /// A file.
    File(&'a [u8]),
    /// Nothing.
    Empty,
}

impl OfficeArguments {
    fn agent() -> ureq::Agent {
        // Problems are told by their text, not by their status alone.
        ureq::Agent::config_builder().http_status_as_error(false).build().into()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.operations)
    }

    /// Who asks, for HTTP Basic.
    fn credentials(&self) -> String {
        use std::fmt::Write;
        let (name, key) = match (&self.gateway, &self.key) {
            (Some(gateway), Some(key)) => (gateway.as_str(), key.clone()),
            _ => (
                DEVELOPMENT_GATEWAY,
                DEVELOPMENT_KEY.iter().fold(String::new(), |mut text, byte| {
                    // Writing to a string cannot fail.
                    let _written = write!(text, "{byte:02x}");
                    text
                }),
            ),
        };
        format!("Basic {}", STANDARD.encode(format!("{name}:{key}")))
    }

    /// Reads something.
    pub(super) fn get(&self, path: &str, query: &[(&str, Option<String>)]) -> Result<Value, Failure> {
        Ok(serde_json::from_str(&self.get_text(path, query)?)?)
    }

    /// Reads something as it comes.
    pub(super) fn get_text(&self, path: &str, query: &[(&str, Option<String>)]) -> Result<String, Failure> {
        let mut request = Self::agent().get(self.url(path));
        for (name, value) in query {
            if let Some(value) = value {
                request = request.query(*name, value);
            }
        }
        self.read(request.call())
    }

    /// Changes something.
    pub(super) fn post(&self, path: &str, body: &Body<'_>) -> Result<Value, Failure> {
        let request = Self::agent().post(self.url(path)).header("Authorization", self.credentials());
        let answer = self.read(match body {
            Body::Json(value) => request.send_json(value),
            Body::File(bytes) => request.header("Content-Type", "application/octet-stream").send(*bytes),
            Body::Empty => request.send_empty(),
        })?;
        Ok(serde_json::from_str(&answer)?)
    }

    fn unreachable(&self, err: &ureq::Error) -> Failure {
        anyhow::anyhow!(
            "cannot ask the operations port at {}: {err}; is the server running there? --operations gives its address",
            self.operations
        )
        .into()
    }

    fn read(&self, response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<String, Failure> {
        let mut response = response.map_err(|err| self.unreachable(&err))?;
        let text = response.body_mut().with_config().limit(1 << 30).read_to_string()?;
        if response.status().is_success() { Ok(text) } else { Err(problem(&text)) }
    }
}

fn problem(text: &str) -> Failure {
    let problem: Option<Value> = serde_json::from_str(text).ok();
    let detail = problem.as_ref().and_then(|problem| problem.get("detail")?.as_str());
    anyhow::anyhow!("{}", detail.unwrap_or(text.trim())).into()
}

/// A field of an answer as text.
pub(super) fn field(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

/// The rows of an answer that is a list, with these fields.
pub(super) fn rows(list: &Value, fields: &[&str]) -> Vec<Vec<String>> {
    let rows = list.as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter().map(|row| fields.iter().map(|name| field(row, name)).collect()).collect()
}
