//! InitProducerId: a producer id for an idempotent producer. Durably never given twice.

use std::cell::Cell;

use trireme_replication::{Metadata, MetadataError};

use kacrab_protocol::generated::*;

use crate::dispatch::{self, Answer, Api, Call, Order};

pub const API: Api = Api {
    key: 22,
    name: "InitProducerId",
    min: 0,
    max: 5,
    flexible: 2,
    order: Order::Serial,
    start: |request| dispatch::typed(request, handle),
};

/// Ids that a core takes from the cluster at a time; what it does not use before a restart is lost, of 2^63.
const BLOCK: u32 = 1_000;
const NO_PRODUCER_ID: i64 = -1;
const NO_PRODUCER_EPOCH: i16 = -1;

/// This core's producer ids.
#[derive(Default)]
pub struct ProducerIds {
    next: Cell<i64>,
    end: Cell<i64>,
}

impl ProducerIds {
    async fn take(&self, metadata: &Metadata) -> Result<i64, MetadataError> {
        if self.next.get() == self.end.get() {
            let first = metadata.allocate_producer_ids(BLOCK).await?;
            // If another request has brought a block meanwhile, what is left of it is lost.
            self.next.set(first);
            self.end.set(first + i64::from(BLOCK));
        }
        Ok(self.next.replace(self.next.get() + 1))
    }
}

async fn handle(
    call: Call,
    request: InitProducerIdRequestData,
) -> Answer<InitProducerIdResponseData> {
    let refused = |code: ErrorCode| {
        Ok(InitProducerIdResponseData {
            error_code: code.code(),
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            ..Default::default()
        })
    };
    if request.transactional_id.is_some() {
        // Producers that ask for their coordinator first have been told why; of the codes without a text this one ends all
        // clients at once.
        return refused(ErrorCode::TransactionalIdAuthorizationFailed);
    }
    if (request.producer_id == NO_PRODUCER_ID) != (request.producer_epoch == NO_PRODUCER_EPOCH) {
        return refused(ErrorCode::InvalidRequest);
    }
    // A producer that wants to go on after lost messages brings its old id; like Kafka we give it a new one.
    match call.door.producer_ids.take(&call.door.metadata).await {
        Ok(producer_id) => Ok(InitProducerIdResponseData {
            producer_id,
            producer_epoch: 0,
            ..Default::default()
        }),
        Err(problem) => {
            tracing::warn!(%problem, "no producer id can be given");
            refused(ErrorCode::CoordinatorNotAvailable)
        }
    }
}
