//! The last line of a request, which nobody waits for.

use super::*;

#[tokio::test]
async fn p_i5_a_last_line_waits_only_where_somebody_writes_it_and_is_out_when_nobody_does() {
    let disk = Disk::default().room(usize::MAX);
    let audit = audit(&disk);
    let end = |audit: &Arc<Audit>| {
        let mut entry = audit.open(Entrance::HttpProxy, None);
        begin(&mut entry).unwrap();
        drop(entry);
    };
    end(&audit);
    assert_eq!(disk.lines().len(), 2, "nobody tends it");
    let tended = Arc::clone(&audit);
    let tending = tokio::spawn(async move { tended.tend().await });
    while !audit.sink().is_tended {
        tokio::task::yield_now().await;
    }
    end(&audit);
    assert_eq!(disk.lines().len(), 3, "it waits");
    while disk.lines().len() < 4 {
        tokio::task::yield_now().await;
    }
    end(&audit);
    tending.abort();
    assert!(tending.await.is_err());
    assert_eq!(disk.lines().len(), 6, "it was left, and is out");
    end(&audit);
    assert_eq!(disk.lines().len(), 8, "nobody tends it any more");
}

#[tokio::test]
async fn p_i5_a_last_line_behind_a_full_batch_is_out_though_nobody_comes_back_to_that() {
    let disk = Disk::default().room(usize::MAX);
    let audit = audit(&disk);
    let mut over = audit.open(Entrance::HttpProxy, None);
    begin(&mut over).unwrap();
    let tended = Arc::clone(&audit);
    let tending = tokio::spawn(async move { tended.tend().await });
    while !audit.sink().is_tended {
        tokio::task::yield_now().await;
    }
    let mut entries: Vec<Entry> = (0..1000).map(|_| audit.open(Entrance::HttpProxy, None)).collect();
    let mut waiting = Vec::new();
    for entry in &mut entries {
        if audit.sink().waiting_bytes() >= AUDIT_BATCH_BYTES_MAX {
            break;
        }
        let mut one = Box::pin(begin_with_others(entry));
        assert!(one.as_mut().now_or_never().is_none());
        waiting.push(one);
    }
    assert!(audit.sink().waiting_bytes() >= AUDIT_BATCH_BYTES_MAX, "the batch is full");
    drop(over);
    let is_out = || disk.lines().iter().any(|line| line.contains("\"event\":\"end\""));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(is_out(), "{} lines", disk.lines().len());
    tending.abort();
}
