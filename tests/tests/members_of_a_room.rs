//! Promise: a client that asks who is in its room hears it, of all nodes, within a moment; one that floods with the question
//! costs the others nothing, and the controller a call a second.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::time::{Duration, Instant};

use ringcast_tests::{Event, Kind, Member, Members, System, SystemPlan, eventually};
use serde_json::Value;

const QUESTION: &str = r#"{"type":"members"}"#;

/// Asks, and waits for the answer.
async fn ask(member: &mut Member) -> Value {
    member.send(QUESTION);
    match member.event().await.unwrap() {
        Event::Text(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn users(answer: &Value) -> Vec<(&str, &str)> {
    let members = answer["data"]["members"].as_array().unwrap_or_else(|| panic!("{answer}")).iter();
    let mut users: Vec<(&str, &str)> = members
        .map(|member| (member["user_id"].as_str().unwrap(), member["user_name"].as_str().unwrap()))
        .collect();
    users.sort_unstable();
    users
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_hears_who_is_in_its_room_on_all_nodes() {
    let system = System::start(SystemPlan::nodes(2)).await;
    let mut members = Members::default();
    let mut alice = members.join(Kind::Tungstenite, system.nodes[0].http, "alice", "hall").await;
    let bob = members.join(Kind::Tungstenite, system.nodes[1].http, "bob", "hall").await;
    let query = "user_id=carol&user_name=Carol%20%E5%8D%A1&room_id=yard";
    let mut carol = members.open(Kind::Tungstenite, &format!("ws://{}/ws?{query}", system.nodes[1].http));
    assert_eq!(carol.event().await.unwrap(), Event::Open);
    let answer = ask(&mut alice).await;
    assert_eq!((&answer["type"], &answer["room_id"]), (&"members".into(), &"hall".into()));
    assert_eq!((&answer["data"]["total"], &answer["data"]["more"]), (&2.into(), &false.into()));
    let ids: Vec<&str> = users(&answer).iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, ["alice", "bob"]);
    let answer = ask(&mut carol).await;
    assert_eq!(users(&answer), [("carol", "Carol 卡")], "of her own room only");
    bob.close(1000);
    eventually("alice hears that bob has left", Duration::from_secs(10), async || {
        let answer = ask(&mut alice).await;
        let ids: Vec<String> = users(&answer).iter().map(|(id, _)| (*id).to_owned()).collect();
        if ids == ["alice"] { Ok(()) } else { Err(ids) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_questions_is_answered_or_not_and_others_get_their_pushes() {
    let system = System::start(SystemPlan::nodes(1)).await;
    let mut members = Members::default();
    let flooding = members.join(Kind::Tungstenite, system.nodes[0].http, "flood", "hall").await;
    let mut alice = members.join(Kind::Tungstenite, system.nodes[0].http, "alice", "hall").await;
    for _ in 0..20_000 {
        flooding.send(QUESTION);
    }
    let begun = Instant::now();
    let pusher = system.pusher().await;
    pusher.user("alice", b"still there").await.unwrap();
    assert_eq!(alice.push().await.unwrap().content, b"still there");
    eventually("the node asks the controller again", Duration::from_secs(20), async || {
        let answer = ask(&mut alice).await;
        if answer["data"]["total"] == 2 || answer["data"]["total"] == 1 { Ok(()) } else { Err(answer) }
    })
    .await;
    // However many ask, they are told what is a second old at most, by one call.
    let calls = system
        .control
        .metric_with("ringcast_controller_grpc_handled_total", r#"method="GetRoomInfo""#)
        .unwrap();
    let most = begun.elapsed().as_secs_f64() + 2.0;
    assert!((1.0..=most).contains(&calls), "{calls:?} calls, not 1 to {most}");
}
