//! DescribeAcls, CreateAcls, DeleteAcls: there is no authorizer yet, and every one says so.

use kacrab_protocol::generated::{
    AclCreationResult, CreateAclsRequestData, CreateAclsResponseData, DeleteAclsFilterResult,
    DeleteAclsRequestData, DeleteAclsResponseData, DescribeAclsRequestData,
    DescribeAclsResponseData, ErrorCode,
};

use crate::cluster::text;
use crate::dispatch::{self, Answer, Api, Call, Order};

pub const DESCRIBE: Api = Api {
    key: 29,
    name: "DescribeAcls",
    min: 1,
    max: 3,
    flexible: 2,
    order: Order::Serial,
    start: |request| dispatch::typed(request, describe),
};

pub const CREATE: Api = Api {
    key: 30,
    name: "CreateAcls",
    min: 1,
    max: 3,
    flexible: 2,
    order: Order::Serial,
    start: |request| dispatch::typed(request, create),
};

pub const DELETE: Api = Api {
    key: 31,
    name: "DeleteAcls",
    min: 1,
    max: 3,
    flexible: 2,
    order: Order::Serial,
    start: |request| dispatch::typed(request, delete),
};

const DISABLED: &str = "No Authorizer is configured.";

async fn describe(
    _call: Call,
    _request: DescribeAclsRequestData,
) -> Answer<DescribeAclsResponseData> {
    Ok(DescribeAclsResponseData::default()
        .with_error_code(ErrorCode::SecurityDisabled.code())
        .with_error_message(Some(text(DISABLED))))
}

async fn create(_call: Call, request: CreateAclsRequestData) -> Answer<CreateAclsResponseData> {
    let refused = || {
        AclCreationResult::default()
            .with_error_code(ErrorCode::SecurityDisabled.code())
            .with_error_message(Some(text(DISABLED)))
    };
    Ok(CreateAclsResponseData::default()
        .with_results(request.creations.iter().map(|_| refused()).collect()))
}

async fn delete(_call: Call, request: DeleteAclsRequestData) -> Answer<DeleteAclsResponseData> {
    let refused = || {
        DeleteAclsFilterResult::default()
            .with_error_code(ErrorCode::SecurityDisabled.code())
            .with_error_message(Some(text(DISABLED)))
    };
    Ok(DeleteAclsResponseData::default()
        .with_filter_results(request.filters.iter().map(|_| refused()).collect()))
}
