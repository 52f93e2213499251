//! FindCoordinator: this node coordinates every group. There are no transactions yet, and this is where a transactional
//! producer hears of it: the only answer on its way that carries a text.

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::find_coordinator_response::Coordinator;
use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 10,
    name: "FindCoordinator",
    min: 0,
    max: 6,
    flexible: 3,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

const FIRST_WITH_KEYS: i16 = 4;
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

async fn handle(
    call: Call,
    request: FindCoordinatorRequestData,
) -> Answer<FindCoordinatorResponseData> {
    if call.version() >= FIRST_WITH_KEYS {
        let coordinators = request
            .coordinator_keys
            .into_iter()
            .map(|key| find(&call, request.key_type, key))
            .collect();
        return Ok(FindCoordinatorResponseData {
            coordinators,
            ..Default::default()
        });
    }
    let found = find(&call, request.key_type, request.key);
    Ok(FindCoordinatorResponseData {
        error_code: found.error_code,
        error_message: found.error_message,
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..Default::default()
    })
}

fn find(call: &Call, key_type: i8, key: KafkaString) -> Coordinator {
    let config = &call.door.config;
    let refused = |code: ErrorCode, message: String| Coordinator {
        key: key.clone(),
        node_id: -1,
        port: -1,
        error_code: code.code(),
        error_message: Some(message.into()),
        ..Default::default()
    };
    if key_type == GROUP {
        call.door.groups.in_use().set();
    }
    match key_type {
        GROUP => Coordinator {
            key: key.clone(),
            node_id: call.door.metadata.image().node_id,
            host: config.advertised_host.clone().into(),
            port: i32::from(config.advertised_port),
            // Empty rather than null, as Kafka's: there are clients that look at it in any case.
            error_message: Some(KafkaString::default()),
            ..Default::default()
        },
        // Of all codes this is the one at which every client gives up at once and shows the text: Java has a text of its
        // own for TRANSACTIONAL_ID_AUTHORIZATION_FAILED, librdkafka goes on asking after any other.
        TRANSACTION => refused(
            ErrorCode::ClusterAuthorizationFailed,
            format!(
                "Trireme does not support transactions yet (transactional.id {key:?}): use an idempotent producer",
                key = key.as_str()
            ),
        ),
        other => refused(
            ErrorCode::InvalidRequest,
            format!("There is no coordinator of type {other} here."),
        ),
    }
}
