//! What the integration tests have in common: servers in this process and in processes of their own, raw frames.

#![allow(unreachable_pub, reason = "shared by test programs")]
#![allow(dead_code, reason = "each test program uses its own part")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use heng::client::{AnswerReceiver, Client, Connection, Credentials, RequestSender};
use heng::config::Settings;
use heng::ledger::{AccountFlags, AccountId, Code, NewAccount, Transfer, TransferId};
use heng::protocol::{FRAME_HEADER_BYTES, FrameHeader, Hello, Kind, decode_error, encode_frame};
use heng::server::{self, Ready, ServerError};
use heng::telemetry::Telemetry;
use tokio::sync::oneshot;

/// Copies a directory with all that is in it.
pub fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Longer than anything may take here, also on a busy machine.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// Says that a test is skipped because this machine does not let it run; fails where nothing may be skipped.
#[allow(clippy::print_stderr, reason = "who runs the tests must see it")]
pub fn skip(why: &str) {
    assert!(std::env::var_os("HENG_NOTHING_SKIPPED").is_none(), "skipped, and nothing may be: {why}");
    eprintln!("SKIPPED: {why}");
}

/// A server in this process.
pub struct TestServer {
    pub ready: Ready,
    pub telemetry: Telemetry,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<Result<(), ServerError>>>,
}

/// Settings for small, quick servers.
pub fn settings(data_dir: &Path) -> Settings {
    Settings {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        operations_listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        data_dir: Some(data_dir.to_owned()),
        development_key: Some(true),
        shards: Some(2),
        segment_bytes: Some(2 << 20),
        group_transfers_max: Some(8_192),
        ..Settings::default()
    }
}

impl TestServer {
    pub fn start(settings: Settings) -> Self {
        let config = settings.resolve().expect("settings");
        let telemetry = Telemetry::default();
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let shown = telemetry.clone();
        let thread = std::thread::spawn(move || {
            server::run(&config, &shown, move |ready| tell.send(ready.clone()).expect("the test waits"), stopped)
        });
        match told.recv_timeout(DEADLINE) {
            Ok(ready) => Self { ready, telemetry, stop: Some(stop), thread: Some(thread) },
            Err(err) => panic!("the server did not start ({err}): {:?}", thread.join()),
        }
    }

    /// A server on a temporary directory with ordinary settings.
    pub fn quick() -> (Self, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        (Self::start(settings(directory.path())), directory)
    }

    pub fn stop(mut self) -> Result<(), ServerError> {
        self.stop.take().expect("stopped once").send(()).expect("the server listens");
        self.thread.take().expect("stopped once").join().expect("no panic")
    }

    /// Waits until it ends by itself.
    pub fn end(mut self) -> Result<(), ServerError> {
        self.thread.take().expect("ended once").join().expect("no panic")
    }

    pub fn raw(&self) -> Raw {
        Raw::connect(self.ready.listen)
    }

    /// Both sides of a connection of its own, for requests that are not waited for one by one.
    pub async fn connection(&self) -> (RequestSender, AnswerReceiver) {
        let opened = Connection::open(self.ready.listen, &Credentials::development()).await;
        opened.expect("a connection").split()
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.ready.listen, &Credentials::development()).await.expect("a connection")
    }
}

/// A connection that can send anything.
pub struct Raw(pub TcpStream);

impl Raw {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("a timeout");
        Self(stream)
    }

    pub fn hello(&mut self) {
        self.send_bytes(&hello_frame());
        assert_eq!(self.receive().expect("a welcome").0.kind, Kind::Welcome.number());
    }

    pub fn send(&mut self, kind: Kind, request_id: u64, body: &[u8]) {
        let mut frame = Vec::new();
        encode_frame(&mut frame, kind, request_id, body);
        self.0.write_all(&frame).expect("sent");
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        // The server may close while we send, which is what some tests are about.
        let _ = self.0.write_all(bytes);
    }

    /// The next frame, or none when the server has closed.
    pub fn receive(&mut self) -> Option<(FrameHeader, Vec<u8>)> {
        let mut head = [0; FRAME_HEADER_BYTES];
        self.0.read_exact(&mut head).ok()?;
        let header = FrameHeader::decode(&head).expect("a sound header");
        let mut body = vec![0; header.body_bytes as usize];
        self.0.read_exact(&mut body).ok()?;
        assert!(header.matches(&body));
        Some((header, body))
    }

    /// The next frame must be this error.
    pub fn expect_error(&mut self, request_id: u64, code: Code) {
        let (header, body) = self.receive().unwrap_or_else(|| panic!("closed instead of {code}"));
        assert_eq!((header.kind, header.request_id), (Kind::Error.number(), request_id));
        let (found, text) = decode_error(&body).expect("an error");
        assert_eq!(found, code, "{text}");
    }

    /// The server must have closed the connection.
    pub fn expect_closed(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.is_empty(), "more than was expected: {rest:?}"),
            Err(err) => assert_eq!(err.kind(), std::io::ErrorKind::ConnectionReset, "{err}"),
        }
    }
}

pub fn hello_frame() -> Vec<u8> {
    let who = Hello {
        version_min: 1,
        version_max: 1,
        gateway: heng::protocol::DEVELOPMENT_GATEWAY.to_owned(),
        key: heng::protocol::DEVELOPMENT_KEY,
    };
    let mut frame = Vec::new();
    encode_frame(&mut frame, Kind::Hello, 1, &who.encode().expect("a name"));
    frame
}

pub fn account(id: u128, flags: AccountFlags) -> NewAccount {
    NewAccount { id: AccountId::from_raw(id), currency: 978, flags, ..NewAccount::default() }
}

pub fn transfer(id: u128, debit: u128, credit: u128, amount: u128) -> Transfer {
    Transfer {
        id: TransferId::from_raw(id),
        debit: AccountId::from_raw(debit),
        credit: AccountId::from_raw(credit),
        amount,
        ..Transfer::default()
    }
}

/// Another connection must be served as if nothing had happened.
pub fn check_others_are_served(server: &TestServer) {
    runtime().block_on(async {
        let mut client = server.client().await;
        client.ping().await.expect("a pong");
        let outcome = client
            .open_accounts(&[account(999, AccountFlags::DEBITS_MUST_NOT_EXCEED_CREDITS)])
            .await
            .expect("an outcome")[0];
        assert_eq!(outcome.code, Code::Accepted);
    });
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Waits for something, by looking again and again until a deadline.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "waited too long for: {what}");
        std::thread::yield_now();
    }
}

/// A server in a process of its own; killed when dropped.
pub struct Process {
    pub child: Child,
    pub listen: SocketAddr,
    pub operations: SocketAddr,
    /// The server itself, also when it runs under a tracer.
    pid: rustix::process::Pid,
}

/// `heng` with these arguments, in a directory where no configuration file is found by accident.
pub fn heng(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heng"));
    command.args(arguments).current_dir(std::env::temp_dir()).stdin(Stdio::null());
    command
}

pub fn run(arguments: &[&str]) -> Output {
    heng(arguments).output().expect("heng runs")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The flags of a small, quick server on free ports.
pub fn serve_arguments(data_dir: &Path) -> Vec<String> {
    let directory = data_dir.to_str().expect("a path in UTF-8");
    let flags = [
        "serve",
        "--json",
        "--listen",
        "127.0.0.1:0",
        "--operations-listen",
        "127.0.0.1:0",
        "--development-key",
        "true",
        "--segment-bytes",
        "2097152",
        "--group-transfers-max",
        "8192",
        "--data-dir",
        directory,
    ];
    flags.iter().map(ToString::to_string).collect()
}

impl Process {
    pub fn start(data_dir: &Path, more: &[&str]) -> Self {
        let mut arguments = serve_arguments(data_dir);
        arguments.extend(more.iter().map(ToString::to_string));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = heng(&arguments);
        Self::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("heng starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
        let Ok(told) = serde_json::from_str::<serde_json::Value>(&line) else {
            let output = child.wait_with_output().expect("an end");
            panic!("the server did not start: {} {}", output.status, text(&output.stderr));
        };
        let address = |key: &str| told[key].as_str().expect("an address").parse().expect("an address");
        let pid = told["pid"].as_i64().and_then(|pid| rustix::process::Pid::from_raw(pid.try_into().expect("a pid")));
        let pid = pid.expect("a pid");
        Self { listen: address("listen"), operations: address("operations_listen"), pid, child }
    }

    /// Stops it from running without ending it.
    pub fn stop_running(&self) {
        rustix::process::kill_process(self.pid, rustix::process::Signal::STOP).expect("stopped");
    }

    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("an end");
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(self) -> (std::process::ExitStatus, String) {
        self.end_by(rustix::process::Signal::TERM)
    }

    /// Sends a signal and waits for the end.
    pub fn end_by(mut self, signal: rustix::process::Signal) -> (std::process::ExitStatus, String) {
        rustix::process::kill_process(self.pid, signal).expect("told");
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut said).expect("readable");
        }
        (self.child.wait().expect("an end"), said)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Under a tracer the server is not our child; once it has ended, nothing is there to be killed.
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = rustix::process::kill_process(self.pid, rustix::process::Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `GET path` from an operations port: status and body.
pub fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    http_answer(http_begin(address, &format!("GET {path}"), ""))
}

/// Sends the head of a request, with these headers (each with its line end), and no body.
pub fn http_begin(address: SocketAddr, what: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    write!(stream, "{what} HTTP/1.1\r\nHost: heng\r\nConnection: close\r\n{headers}\r\n").expect("sent");
    stream
}

pub fn http_answer(mut stream: TcpStream) -> (u16, String) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
