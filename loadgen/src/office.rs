//! The operations port as the day simulation uses it: JSON over HTTP, in the name of the development gateway.

use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

/// One connection to the operations port.
#[derive(Clone, Debug)]
pub(crate) struct Office {
    agent: ureq::Agent,
    base: String,
    authorization: String,
}

impl Office {
    pub(crate) fn new(operations: &str) -> Self {
        Self::with(operations, None)
    }

    /// One that gives up what is not answered within a time.
    pub(crate) fn within(operations: &str, time: Duration) -> Self {
        Self::with(operations, Some(time))
    }

    fn with(operations: &str, time: Option<Duration>) -> Self {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(time).build().into();
        let key: Vec<String> = heng::protocol::DEVELOPMENT_KEY.iter().map(|byte| format!("{byte:02x}")).collect();
        let who = format!("{}:{}", heng::protocol::DEVELOPMENT_GATEWAY, key.concat());
        let authorization = format!("Basic {}", BASE64_STANDARD.encode(who));
        Self { agent, base: format!("http://{operations}"), authorization }
    }

    fn read(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> anyhow::Result<Value> {
        let mut response = response.context("cannot ask the operations port")?;
        let text = response.body_mut().with_config().limit(1 << 30).read_to_string()?;
        anyhow::ensure!(response.status().is_success(), "the operations port answered {}: {text}", response.status());
        Ok(serde_json::from_str(&text)?)
    }

    pub(crate) fn get(&self, path: &str) -> anyhow::Result<Value> {
        Self::read(self.agent.get(format!("{}{path}", self.base)).call())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.agent.post(format!("{}{path}", self.base));
        Self::read(request.header("Authorization", &self.authorization).send_json(body))
    }

    pub(crate) fn post_file(&self, path: &str, bytes: &[u8]) -> anyhow::Result<Value> {
        let request = self.agent.post(format!("{}{path}", self.base));
        Self::read(request.header("Authorization", &self.authorization).send(bytes))
    }
}

/// A field that is a text.
pub(crate) fn text<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    value.get(name).and_then(Value::as_str).with_context(|| format!("no {name} in {value}"))
}

/// A field that is a number written as a text.
pub(crate) fn amount(value: &Value, name: &str) -> anyhow::Result<i128> {
    Ok(text(value, name)?.parse()?)
}

/// A field that is a number.
pub(crate) fn number(value: &Value, name: &str) -> anyhow::Result<u64> {
    value.get(name).and_then(Value::as_u64).with_context(|| format!("no {name} in {value}"))
}

/// The items of a list.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
