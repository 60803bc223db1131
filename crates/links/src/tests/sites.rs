use cluster::lease::{Epoch, Term};
use host::{SiteNews, SiteOp};
use room::{MediaDone, MediaOp, OpId, SiteEvent, SiteId, TransportId};
use tokio::time::timeout;

use super::fake::{EPOCH, Listening, PATIENCE, id, links, me, patient, room};
use crate::{OpenSite, OpenedSite, Security, SiteError, SiteRefused};

fn open(epoch: Epoch) -> OpenSite {
    OpenSite { room: room("r"), site: SiteId(3), term: Term { epoch, node: id("m1") }, adopt: false }
}

fn op(number: u64) -> SiteOp {
    SiteOp::Do { op: OpId(number), what: MediaOp::CloseTransport(TransportId::new(format!("t{number}"))) }
}

fn done(number: u64) -> SiteNews {
    SiteNews::Done { op: OpId(number), result: Ok(MediaDone::Done) }
}

#[tokio::test]
async fn work_goes_there_in_order_and_news_come_back() {
    let mut edge = Listening::start("m2", Security::plaintext(), patient()).await;
    let (links, _) = links(me("m1"), Security::plaintext(), patient());
    let mut near = links.open_site(&edge.node, open(EPOCH)).await.expect("opened");
    let mut far = edge.sites.recv().await.expect("opened");
    assert_eq!(far.open, open(EPOCH));
    // More than fits anywhere on the way, in both directions at once.
    let ops = near.ops.clone();
    let sending = tokio::spawn(async move {
        for number in 0..500 {
            ops.send(op(number)).await.expect("sent");
        }
    });
    let news = far.news.clone();
    let working = tokio::spawn(async move {
        for number in 0..500 {
            assert_eq!(far.work.recv().await, Some(op(number)));
            news.send((SiteId(3), done(number))).await.expect("sent");
        }
        far.work
    });
    for number in 0..500 {
        assert_eq!(near.news.recv().await, Some(done(number)));
    }
    sending.await.expect("all sent");
    let mut work = working.await.expect("all done");
    let lost = SiteNews::Event(SiteEvent::Lost);
    far.news.send((SiteId(3), lost.clone())).await.expect("sent");
    assert_eq!(near.news.recv().await, Some(lost));

    // Dropping it ends the site.
    drop(near);
    assert_eq!(timeout(PATIENCE, work.recv()).await, Ok(None));
    timeout(PATIENCE, far.news.closed()).await.expect("nobody listens any more");
}

#[tokio::test]
async fn a_site_ends_with_its_owner_s_time_and_with_the_edge() {
    let mut edge = Listening::start("m2", Security::plaintext(), patient()).await;
    let (links, _) = links(me("m1"), Security::plaintext(), patient());
    let stale = links.open_site(&edge.node, open(Epoch(EPOCH.0 - 1))).await.expect_err("stale");
    let newest = Term { epoch: EPOCH, node: id("m2") };
    assert_eq!(stale, SiteError::Refused(SiteRefused::Stale { newest }));

    let OpenedSite { ops: _ops, mut news } = links.open_site(&edge.node, open(EPOCH)).await.expect("opened");
    let mut far = edge.sites.recv().await.expect("opened");
    far.end.send(()).expect("watched");
    assert_eq!(timeout(PATIENCE, far.work.recv()).await, Ok(None), "nothing more is taken from that owner");
    // A site without work ends, and its news with it.
    drop(far.news);
    assert_eq!(timeout(PATIENCE, news.recv()).await, Ok(None));

    let mut near = links.open_site(&edge.node, open(EPOCH)).await.expect("opened");
    let _far = edge.sites.recv().await.expect("opened");
    drop(edge.server);
    assert_eq!(timeout(PATIENCE, near.news.recv()).await, Ok(None));
    timeout(PATIENCE, near.ops.closed()).await.expect("nothing is taken up any more");
}
