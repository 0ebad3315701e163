//! Layers, and the nodes that read them.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use outcrop_proto::{Digest, LayerId};
use sqlx::Row as _;

use super::outbox::append;
use super::{Sqlite, StoreError, count, digest, doing, integer, json, layer_id, optional_digest};
use crate::store::{AuditOutcome, InventoryRow, Layer, LayerRow, Layers, OutboxEvent};

#[async_trait]
impl Layers for Sqlite {
    async fn put_layer(&self, LayerRow { layer, inventory }: LayerRow) -> Result<(), StoreError> {
        self.write("storing a layer", move |connection| {
            Box::pin(async move {
                sqlx::query("INSERT OR REPLACE INTO layer VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")
                    .bind(layer.id.to_string())
                    .bind(layer.digest.0.as_slice())
                    .bind(integer(layer.size))
                    .bind(layer.catalogers)
                    .bind(&layer.node)
                    .bind(&layer.cage)
                    .bind(layer.marks)
                    .bind(layer.read_at)
                    .bind(inventory)
                    .execute(&mut *connection)
                    .await?;
                if layer.marks
                    && let Some(digest) = layer.without_marks
                {
                    sqlx::query("INSERT OR REPLACE INTO layer_without_marks VALUES (?, ?)")
                        .bind(layer.id.to_string())
                        .bind(digest.0.as_slice())
                        .execute(connection)
                        .await?;
                }
                Ok(())
            })
        })
        .await
    }

    async fn layers(&self) -> Result<Vec<Layer>, StoreError> {
        let work = async {
            let mut verified: HashMap<String, BTreeSet<String>> = HashMap::new();
            for row in sqlx::query("SELECT layer, node FROM verification").fetch_all(&self.reader).await? {
                verified.entry(row.try_get("layer")?).or_default().insert(row.try_get("node")?);
            }
            let sql = "SELECT id, layer.digest, size, catalogers, node, cage, marks, read_at, layer_without_marks.digest AS without_marks
                FROM layer LEFT JOIN layer_without_marks ON layer = id";
            let rows = sqlx::query(sql).fetch_all(&self.reader).await?;
            rows.iter()
                .map(|row| {
                    let id: &str = row.try_get("id")?;
                    Ok(Layer {
                        id: layer_id(id)?,
                        digest: digest(row, "digest")?,
                        without_marks: optional_digest(row, "without_marks")?,
                        size: count(row, "size")?,
                        catalogers: count(row, "catalogers")?,
                        node: row.try_get("node")?,
                        cage: row.try_get("cage")?,
                        marks: row.try_get("marks")?,
                        read_at: row.try_get("read_at")?,
                        verified_by: verified.remove(id).unwrap_or_default(),
                    })
                })
                .collect()
        };
        doing("reading layers", work).await
    }

    async fn inventories(&self, ids: &[LayerId]) -> Result<Option<Vec<InventoryRow>>, StoreError> {
        let work = async {
            let mut all = Vec::with_capacity(ids.len());
            for id in ids {
                let row = sqlx::query("SELECT digest, inventory, size, marks FROM layer WHERE id = ?")
                    .bind(id.to_string())
                    .fetch_optional(&self.reader)
                    .await?;
                let Some(row) = row else { return Ok(None) };
                all.push(InventoryRow {
                    digest: digest(&row, "digest")?,
                    compressed: row.try_get("inventory")?,
                    size: count(&row, "size")?,
                    marks: row.try_get("marks")?,
                });
            }
            Ok(Some(all))
        };
        doing("reading inventories", work).await
    }

    async fn verified(&self, layer: &LayerId, digest: &Digest, node: &str, at: i64) -> Result<(), StoreError> {
        let (layer, digest, node) = (layer.to_string(), *digest, node.to_owned());
        self.write("storing that a layer was verified", move |connection| {
            Box::pin(async move {
                let sql = "INSERT OR IGNORE INTO verification SELECT id, ?, ? FROM layer WHERE id = ? AND digest = ?";
                let query = sqlx::query(sql).bind(node).bind(at).bind(layer).bind(digest.0.as_slice());
                query.execute(connection).await?;
                Ok(())
            })
        })
        .await
    }

    async fn attribute(&self, layer: &LayerId, from: &str, to: &str) -> Result<(), StoreError> {
        let (layer, from, to) = (layer.to_string(), from.to_owned(), to.to_owned());
        self.write("attributing a layer to another node", move |connection| {
            Box::pin(async move {
                sqlx::query("UPDATE layer SET node = ? WHERE id = ? AND node = ?")
                    .bind(&to)
                    .bind(&layer)
                    .bind(from)
                    .execute(&mut *connection)
                    .await?;
                sqlx::query("DELETE FROM verification WHERE layer = ? AND node = ?")
                    .bind(layer)
                    .bind(to)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    async fn forget_layers(&self, ids: &[LayerId], node: &str) -> Result<(), StoreError> {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let node = node.to_owned();
        self.write("removing layers of a node", move |connection| {
            Box::pin(async move {
                sqlx::query("DELETE FROM layer WHERE id IN (SELECT value FROM json_each(?)) AND node = ?")
                    .bind(json(&ids)?)
                    .bind(node)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    async fn distrust(&self, node: &str, distrusted: bool, by: &str, at: i64) -> Result<(), StoreError> {
        let (node, by, outbox) = (node.to_owned(), by.to_owned(), self.outbox);
        self.write("storing whether a node is trusted", move |connection| {
            Box::pin(async move {
                let query = match distrusted {
                    true => sqlx::query("INSERT OR REPLACE INTO distrusted SELECT cluster, ?, ? FROM meta")
                        .bind(&node)
                        .bind(at),
                    false => sqlx::query("DELETE FROM distrusted WHERE node = ?").bind(&node),
                };
                query.execute(&mut *connection).await?;
                if !outbox {
                    return Ok(());
                }
                let action = if distrusted { "distrust-node" } else { "trust-node" };
                let (action, outcome) = (action.to_owned(), AuditOutcome::Done);
                append(connection, &[OutboxEvent::Audit { actor: by, action, target: node, outcome }], at).await
            })
        })
        .await
    }

    async fn distrusted(&self) -> Result<Vec<String>, StoreError> {
        let work = async {
            let rows = sqlx::query("SELECT node FROM distrusted ORDER BY node").fetch_all(&self.reader).await?;
            rows.iter().map(|row| Ok(row.try_get("node")?)).collect()
        };
        doing("reading distrusted nodes", work).await
    }
}
