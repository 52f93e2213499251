//! AddOffsetsToTxn: there are no transactions yet. Not advertised; who asks nevertheless hears so at once.

use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 25,
    name: "AddOffsetsToTxn",
    min: 0,
    max: 4,
    flexible: 3,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

async fn handle(_: Call, _: AddOffsetsToTxnRequestData) -> Answer<AddOffsetsToTxnResponseData> {
    Ok(AddOffsetsToTxnResponseData {
        error_code: ErrorCode::UnsupportedVersion.code(),
        ..Default::default()
    })
}
