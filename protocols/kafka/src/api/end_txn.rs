//! EndTxn: there are no transactions yet. Not advertised; who asks nevertheless hears so at once.

use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 26,
    name: "EndTxn",
    min: 0,
    max: 5,
    flexible: 3,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(_: Call, _: EndTxnRequestData) -> Answer<EndTxnResponseData> {
    Ok(EndTxnResponseData {
        error_code: ErrorCode::UnsupportedVersion.code(),
        ..Default::default()
    })
}
