//! Layers, and who is believed about them.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use outcrop_proto::{Digest, LayerId};
use sqlx::Row as _;

use super::{Sqlite, StoreError, count, digest, integer, json, layer_id};
use crate::store::{Layer, LayerRow, Layers};

#[async_trait]
impl Layers for Sqlite {
    async fn put_layer(&self, LayerRow { layer, inventory }: &LayerRow) -> Result<(), StoreError> {
        sqlx::query("INSERT OR REPLACE INTO layer VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")
            .bind(layer.id.to_string())
            .bind(layer.digest.0.as_slice())
            .bind(integer(layer.size))
            .bind(layer.cataloguers)
            .bind(&layer.node)
            .bind(&layer.cage)
            .bind(layer.marks)
            .bind(layer.read_at)
            .bind(inventory)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn layers(&self) -> Result<Vec<Layer>, StoreError> {
        let mut verified: HashMap<String, BTreeSet<String>> = HashMap::new();
        for row in sqlx::query("SELECT layer, node FROM verification").fetch_all(&self.reader).await? {
            verified.entry(row.try_get("layer")?).or_default().insert(row.try_get("node")?);
        }
        let sql = "SELECT id, digest, size, cataloguers, node, cage, marks, read_at FROM layer";
        let rows = sqlx::query(sql).fetch_all(&self.reader).await?;
        rows.iter()
            .map(|row| {
                let id: &str = row.try_get("id")?;
                Ok(Layer {
                    id: layer_id(id)?,
                    digest: digest(row, "digest")?,
                    size: count(row, "size")?,
                    cataloguers: count(row, "cataloguers")?,
                    node: row.try_get("node")?,
                    cage: row.try_get("cage")?,
                    marks: row.try_get("marks")?,
                    read_at: row.try_get("read_at")?,
                    verified_by: verified.remove(id).unwrap_or_default(),
                })
            })
            .collect()
    }

    async fn inventories(&self, ids: &[LayerId]) -> Result<Option<Vec<(Vec<u8>, usize, bool)>>, StoreError> {
        let mut all = Vec::with_capacity(ids.len());
        for id in ids {
            let row = sqlx::query("SELECT inventory, size, marks FROM layer WHERE id = ?")
                .bind(id.to_string())
                .fetch_optional(&self.reader)
                .await?;
            let Some(row) = row else { return Ok(None) };
            all.push((row.try_get("inventory")?, count(&row, "size")?, row.try_get("marks")?));
        }
        Ok(Some(all))
    }

    async fn verified(&self, layer: &LayerId, digest: &Digest, node: &str, at: i64) -> Result<(), StoreError> {
        sqlx::query("INSERT OR IGNORE INTO verification SELECT id, ?, ? FROM layer WHERE id = ? AND digest = ?")
            .bind(node)
            .bind(at)
            .bind(layer.to_string())
            .bind(digest.0.as_slice())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn attribute(&self, layer: &LayerId, from: &str, to: &str) -> Result<(), StoreError> {
        let mut transaction = self.writer.begin().await?;
        sqlx::query("UPDATE layer SET node = ? WHERE id = ? AND node = ?")
            .bind(to)
            .bind(layer.to_string())
            .bind(from)
            .execute(&mut *transaction)
            .await?;
        sqlx::query("DELETE FROM verification WHERE layer = ? AND node = ?")
            .bind(layer.to_string())
            .bind(to)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn forget_layers(&self, ids: &[LayerId], node: &str) -> Result<(), StoreError> {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        sqlx::query("DELETE FROM layer WHERE id IN (SELECT value FROM json_each(?)) AND node = ?")
            .bind(json(&ids)?)
            .bind(node)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn distrust(&self, node: &str, at: Option<i64>) -> Result<(), StoreError> {
        let query = match at {
            Some(at) => sqlx::query("INSERT OR REPLACE INTO distrusted VALUES (?, ?)").bind(node).bind(at),
            None => sqlx::query("DELETE FROM distrusted WHERE node = ?").bind(node),
        };
        query.execute(&self.writer).await?;
        Ok(())
    }

    async fn distrusted(&self) -> Result<Vec<String>, StoreError> {
        let rows = sqlx::query("SELECT node FROM distrusted ORDER BY node").fetch_all(&self.reader).await?;
        rows.iter().map(|row| Ok(row.try_get("node")?)).collect()
    }
}
