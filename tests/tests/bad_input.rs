//! Promise: nothing that a client or a caller sends takes a node, a push manager or a controller down, and each is
//! told what was wrong.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use loadgen::{Fleet, FleetPlan};
use ringcast_proto::pubsub::{
    GetRoomInfoRequest, JoinRoomRequest, LeaveRoomRequest, MessageContent, Outcomes, PushToRoomRequest,
    SetRoomRequest,
};
use ringcast_tests::grpc::{room_push, total};
use ringcast_tests::{System, SystemPlan, http};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const WITNESSES: usize = 5;
const ROOM: &str = "witnesses";

/// The system, and members who are to notice nothing of what others send.
async fn witnessed() -> (System, Fleet) {
    let system = System::start(SystemPlan::nodes(1).limit("handshake_timeout: 1s")).await;
    let fleet =
        Fleet::connect(FleetPlan::new(system.nodes[0].http, WITNESSES, "witness", |_| ROOM.into())).unwrap();
    fleet.run_until(Duration::from_secs(10), |totals| totals.live == WITNESSES).unwrap();
    (system, fleet)
}

/// All three services are there and do their work, for clients that were there before.
async fn assert_unmoved(mut system: System, fleet: Fleet) {
    for service in [&mut system.control, &mut system.push, &mut system.nodes[0]] {
        assert!(service.process.exited().is_none(), "{} has ended", service.id);
        let said = service.process.stderr();
        assert!(!said.contains("panicked"), "{}: {said}", service.id);
        assert!(said.lines().count() < 500, "{} logs without bound", service.id);
    }
    let answer = system.pusher().await.room(ROOM, b"are you there?").await.unwrap();
    assert_eq!(total(&answer.report).written, WITNESSES as u64);
    assert_eq!(fleet.totals().live, WITNESSES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_answered() {
    let (system, fleet) = witnessed().await;
    let node = system.nodes[0].http;
    let long = "x".repeat(65);
    let head = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nHost: x\r\n{more}\r\n").into_bytes();
    let upgrade = |path: &str, more: &str| {
        let headers =
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        head(&format!("GET {path}"), &format!("{headers}{more}"))
    };
    let version = "Sec-WebSocket-Version: 13\r\n";
    let whole = |path: &str| upgrade(path, version);
    let big_header = format!("X-Big: {}\r\n", "b".repeat(9 * 1024));
    let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("garbage", (0..=255).cycle().take(5000).collect(), &[400, 431]),
        ("no HTTP", b"hello\r\n\r\n".to_vec(), &[400]),
        ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[400, 405, 426, 505]),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(20), &[400]),
        ("oversize head", head("GET /health", &big_header), &[431]),
        ("unknown path", head("GET /nothing-here", ""), &[404]),
        ("POST", head("POST /ws?user_id=u&room_id=r", "Content-Length: 0\r\n"), &[405, 400]),
        ("no user", whole("/ws?room_id=r"), &[400]),
        ("no room", whole("/ws?user_id=u"), &[400]),
        ("long user", whole(&format!("/ws?user_id={long}&room_id=r")), &[400]),
        ("long room", whole(&format!("/ws?user_id=u&room_id={long}")), &[400]),
        ("long name", whole(&format!("/ws?user_id=u&room_id=r&user_name={}", "n".repeat(129))), &[400]),
        ("control character", whole("/ws?user_id=a%0ab&room_id=r"), &[400]),
        ("not UTF-8", whole("/ws?user_id=%ff%fe&room_id=r"), &[400]),
        ("torn escape", whole("/ws?user_id=a%2&room_id=r"), &[400]),
        ("a plain GET", head("GET /ws?user_id=u&room_id=r", ""), &[426]),
        ("a plain GET without user", head("GET /ws?room_id=r", ""), &[400]),
        ("old version", upgrade("/ws?user_id=u&room_id=r", "Sec-WebSocket-Version: 8\r\n"), &[426, 400]),
        (
            "short key",
            head(
                "GET /ws?user_id=u&room_id=r",
                &format!(
                    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: c2hvcnQ=\r\n{version}"
                ),
            ),
            &[400],
        ),
    ];
    for (name, request, statuses) in cases {
        let answer = http::exchange(node, &request).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(statuses.contains(&answer.status), "{name}: {answer:?}");
        if statuses == [400] && name.contains(['u', 'o']) && answer.head.contains("json") {
            assert!(answer.json().is_ok(), "{name}: {answer:?}");
        }
    }
    let reason = http::get(node, "/ws?room_id=r").unwrap();
    assert!(reason.body.contains("user_id"), "the reason names what is missing: {reason:?}");
    assert_eq!(reason.header("access-control-allow-origin"), Some("*"));
    assert_unmoved(system, fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_never_ends_is_given_up() {
    let (system, fleet) = witnessed().await;
    let mut sockets: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut socket = TcpStream::connect(system.nodes[0].http).unwrap();
            socket.write_all(b"GET /ws?user_id=slow HTTP/1.1\r\nX: ").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket
        })
        .collect();
    let began = Instant::now();
    for socket in &mut sockets {
        // A byte now and then does not keep it open: the bound is on the whole head.
        let mut answer = Vec::new();
        let _ = socket.write_all(b"x");
        match socket.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_unmoved(system, fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_frames_are_closed_with_their_code() {
    let (system, fleet) = witnessed().await;
    let node = system.nodes[0].http;
    let mask = [0_u8; 4];
    let with_mask = |head: &[u8], payload: &[u8]| [head, &mask, payload].concat();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked", b"\x81\x02hi".to_vec(), 1002),
        ("reserved bit", with_mask(b"\xc1\x82", b"hi"), 1002),
        ("reserved opcode", with_mask(b"\x83\x82", b"hi"), 1002),
        ("continuation of nothing", with_mask(b"\x80\x82", b"hi"), 1002),
        ("ping in fragments", with_mask(b"\x09\x80", b""), 1002),
        ("ping of 126 bytes", with_mask(b"\x89\xfe\x00\x7e", &[0; 126]), 1002),
        ("length not in its shortest form", with_mask(b"\x81\xfe\x00\x02", b"hi"), 1002),
        ("length of 2^63", with_mask(b"\x81\xff\x80\0\0\0\0\0\0\0", b""), 1002),
        ("message of 65 KiB", with_mask(b"\x81\xff\0\0\0\0\0\x01\x04\0", &[b'a'; 66_560]), 1009),
        ("length of 4 GiB", with_mask(b"\x81\xff\0\0\0\x01\0\0\0\0", b""), 1009),
        ("text that is not UTF-8", with_mask(b"\x81\x82", b"\xff\xfe"), 1007),
        ("close with one byte", with_mask(b"\x88\x81", b"x"), 1002),
        ("close with code 1005", with_mask(b"\x88\x82", b"\x03\xed"), 1002),
        ("close with a reason that is not UTF-8", with_mask(b"\x88\x83", b"\x03\xe8\xff"), 1007),
    ];
    for (name, frame, code) in cases {
        let mut socket = upgraded(node);
        let _ = socket.write_all(&frame);
        let mut bytes = Vec::new();
        // The close frame comes before a reset, where there is one.
        let _ = socket.read_to_end(&mut bytes);
        assert!(bytes.len() >= 4, "{name}: {bytes:02x?}");
        assert_eq!(
            (bytes[0], u16::from_be_bytes([bytes[2], bytes[3]])),
            (0x88, code),
            "{name}: {bytes:02x?}"
        );
    }
    assert_unmoved(system, fleet).await;
}

/// A socket on which the frames begin.
fn upgraded(node: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(node).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
        .write_all(
            b"GET /ws?user_id=bad&room_id=bad HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    socket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_calls_get_their_codes() {
    let (system, fleet) = witnessed().await;
    let pusher = system.pusher().await;

    let unknown = pusher.room("never-heard-of", b"x").await.unwrap();
    assert!(!unknown.success && unknown.message.contains("unknown"), "{unknown:?}");
    assert_eq!(total(&unknown.report), Outcomes::default());
    let excluding = PushToRoomRequest {
        exclude_user_ids: (0..WITNESSES).map(|number| format!("witness{number}")).collect(),
        ..room_push(ROOM, b"x")
    };
    let nobody = pusher.room_request(excluding).await.unwrap();
    assert!(!nobody.success && nobody.message.contains("excluded"), "{nobody:?}");
    let offline = pusher.user("never-heard-of", b"x").await.unwrap();
    assert!(!offline.success && offline.message.contains("offline"), "{offline:?}");
    assert_eq!(total(&offline.report), Outcomes { members: 1, offline: 1, ..Outcomes::default() });

    let content = |content| PushToRoomRequest { content: Some(content), ..room_push(ROOM, b"") };
    let cases = [
        ("room_id", room_push("", b"x")),
        ("room_id", room_push(&"r".repeat(65), b"x")),
        ("room_id", room_push("a\u{7}b", b"x")),
        ("content", PushToRoomRequest { content: None, ..room_push(ROOM, b"") }),
        ("content.data", room_push(ROOM, &vec![b'x'; 1024 * 1024 + 1])),
        ("content.type", content(MessageContent { r#type: 99, ..MessageContent::default() })),
        (
            "content.metadata",
            content(MessageContent {
                metadata: (0..65).map(|number| (number.to_string(), String::new())).collect(),
                ..MessageContent::default()
            }),
        ),
        ("message_id", PushToRoomRequest { message_id: "m".repeat(65), ..room_push(ROOM, b"x") }),
        (
            "exclude_user_ids",
            PushToRoomRequest { exclude_user_ids: vec!["u".into(); 1025], ..room_push(ROOM, b"x") },
        ),
        ("deadline_ms", PushToRoomRequest { deadline_ms: 60_001, ..room_push(ROOM, b"x") }),
    ];
    for (field, request) in cases {
        let status = pusher.room_request(request).await.expect_err(field);
        assert_refused(&status, field);
    }
    assert_refused(&pusher.user(&"u".repeat(65), b"x").await.unwrap_err(), "user_id");

    let controller = system.controller().await.0;
    let missing = GetRoomInfoRequest { room_id: "none".into(), ..GetRoomInfoRequest::default() };
    assert_eq!(controller.clone().get_room_info(missing).await.unwrap_err().code(), Code::NotFound);
    let join =
        JoinRoomRequest { user_id: "offline".into(), room_id: ROOM.into(), ..JoinRoomRequest::default() };
    assert_eq!(controller.clone().join_room(join).await.unwrap_err().code(), Code::FailedPrecondition);
    let leave =
        LeaveRoomRequest { user_id: "offline".into(), room_id: ROOM.into(), ..LeaveRoomRequest::default() };
    assert_eq!(controller.clone().leave_room(leave).await.unwrap_err().code(), Code::FailedPrecondition);
    let negative = SetRoomRequest { room_id: ROOM.into(), max_users: Some(-1), ..SetRoomRequest::default() };
    assert_refused(&controller.clone().set_room(negative).await.unwrap_err(), "max_users");
    assert_unmoved(system, fleet).await;
}

/// INVALID_ARGUMENT with details that a program can read.
fn assert_refused(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("{field}: no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "ringcast", "{field}");
    let bad = details.bad_request().unwrap_or_else(|| panic!("{field}: no BadRequest: {status:?}"));
    let named: Vec<&str> = bad.field_violations.iter().map(|violation| violation.field.as_str()).collect();
    assert!(named.iter().any(|name| name.starts_with(field)), "{field}: {named:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_grpc_ports_is_refused() {
    let (system, fleet) = witnessed().await;
    let servers = [
        (system.control.grpc, "/pubsub.ControllerService/JoinRoom"),
        (system.push.grpc, "/pubsub.PushManagerService/PushToRoom"),
        (system.push.grpc, "/pubsub.PushManagerService/NoSuchCall"),
        (system.nodes[0].grpc, "/pubsub.ConnectNodeService/Deliver"),
        (system.control.grpc, "/pubsub.NodeLinkService/Link"),
        (system.control.grpc, "/pubsub.RouteFeedService/Follow"),
    ];
    for (addr, path) in servers {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{addr}"))
            .unwrap()
            .connect()
            .await
            .unwrap();
        let mut raw = tonic::client::Grpc::new(channel);
        raw.ready().await.unwrap();
        let garbage = tokio_stream::once(Bytes::from(vec![0xff; 1000]));
        let path = path.parse().unwrap();
        let call = raw.streaming(tonic::Request::new(garbage), path, Raw);
        let answer =
            match tokio::time::timeout(Duration::from_secs(10), call).await.expect("an answer in time") {
                Ok(answer) => {
                    match tokio::time::timeout(Duration::from_secs(10), answer.into_inner().message()).await {
                        Ok(answer) => answer.map(|_| ()),
                        Err(_) => panic!("{addr}: garbage is left without an answer"),
                    }
                }
                Err(status) => Err(status),
            };
        let code = answer.expect_err("garbage is no request").code();
        assert!(
            matches!(code, Code::Internal | Code::InvalidArgument | Code::Unimplemented),
            "{addr}: {code:?}"
        );

        let mut socket = TcpStream::connect(addr).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = socket.write_all(&(0..=255).cycle().take(50_000).collect::<Vec<u8>>());
        // The server ends it; how, is its affair.
        let ended = socket.read_to_end(&mut Vec::new());
        assert!(
            !matches!(ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
            "{addr}: kept open"
        );
    }
    assert_unmoved(system, fleet).await;
}

/// Bytes as they are, in place of protobuf.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
