//! ConsumerGroupHeartbeat: the new consumer protocol is not built yet. Not advertised, so that clients say so themselves;
//! who asks nevertheless hears it at once.

use kacrab_protocol::KafkaString;
use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 68,
    name: "ConsumerGroupHeartbeat",
    min: 0,
    max: 1,
    flexible: 0,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(
    _: Call,
    _: ConsumerGroupHeartbeatRequestData,
) -> Answer<ConsumerGroupHeartbeatResponseData> {
    Ok(ConsumerGroupHeartbeatResponseData {
        error_code: ErrorCode::UnsupportedVersion.code(),
        error_message: Some(KafkaString::from_static(
            "Trireme serves classic consumer groups only (group.protocol=classic).",
        )),
        ..Default::default()
    })
}
