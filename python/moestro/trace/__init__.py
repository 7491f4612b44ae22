"""What a run did, event by event: timelines. What routers chose: routing traces, and replays of them."""
