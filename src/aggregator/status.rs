//! To be replaced: the least that compiles on the web's new contract.

use std::path::PathBuf;

use super::Aggregator;
use super::who_has::{Query, is_within};
use crate::web::{
    AdvisoryItem, ContainerItem, Failure, FindingItem, Future, HasItem, ImageItem, LayerItem, List, NodeItem,
    PackageItem, Page, Pushed, Scope, Source, Status,
};

fn later<'a, T: Send + 'a>() -> Future<'a, T> {
    let _ = (Query::parse, is_within);
    Box::pin(async { Err(Failure::Store("not built yet".to_owned())) })
}

impl Source for Aggregator {
    fn status<'a>(&'a self, _: &'a Scope) -> Future<'a, Status> {
        later()
    }
    fn nodes<'a>(&'a self, _: &'a Scope, _: &'a List) -> Future<'a, Page<NodeItem>> {
        later()
    }
    fn containers<'a>(&'a self, _: &'a Scope, _: &'a List) -> Future<'a, Page<ContainerItem>> {
        later()
    }
    fn images<'a>(&'a self, _: &'a Scope, _: &'a List) -> Future<'a, Page<ImageItem>> {
        later()
    }
    fn layers<'a>(&'a self, _: &'a Scope, _: &'a List) -> Future<'a, Page<LayerItem>> {
        later()
    }
    fn packages<'a>(&'a self, _: &'a Scope, _: &'a List) -> Future<'a, Page<PackageItem>> {
        later()
    }
    fn findings<'a>(&'a self, _: &'a Scope, _: &'a List) -> Future<'a, Page<FindingItem>> {
        later()
    }
    fn advisory<'a>(&'a self, _: &'a Scope, _: &'a str) -> Future<'a, AdvisoryItem> {
        later()
    }
    fn who_has<'a>(&'a self, _: &'a Scope, _: &'a str, _: &'a List) -> Future<'a, Page<HasItem>> {
        later()
    }
    fn push_database<'a>(&'a self, _: &'a str, _: PathBuf, _: bool) -> Future<'a, Pushed> {
        later()
    }
    fn distrust<'a>(&'a self, _: &'a str, _: bool) -> Future<'a, u64> {
        later()
    }
}
