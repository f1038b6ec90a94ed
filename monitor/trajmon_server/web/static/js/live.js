// New checkpoints as they come. A hidden page listens to nothing: a browser opens six connections to one server, and each
// page that listens holds one.
import { $ } from "./dom.js";
import { lost, onReturn } from "./connection.js";
import { runPath } from "./api.js";

/**
 * Listen to a run. `refresh` is called with the newest event's data whenever something may have changed, one call at a
 * time; while it works, and for as long again, events are only collected.
 */
export function follow(run, refresh) {
  let source = null;
  let working = false;
  let waiting = null;

  const note = (text, state) => {
    $("live").textContent = text;
    $("live").dataset.state = state;
    $("live").hidden = false;
  };

  const take = async (data) => {
    if (working) {
      waiting = data;
      return;
    }
    working = true;
    const started = performance.now();
    try {
      await refresh(data);
    } finally {
      const took = performance.now() - started;
      setTimeout(
        () => {
          working = false;
          const next = waiting;
          waiting = null;
          if (next !== null) take(next);
        },
        Math.min(5000, Math.max(250, took)),
      );
    }
  };

  const open = () => {
    if (source !== null || document.hidden) return;
    source = new EventSource(`${runPath(run)}/events`);
    source.addEventListener("open", () => note("live", "on"));
    for (const kind of ["checkpoint", "state"]) {
      source.addEventListener(kind, (event) => {
        const data = JSON.parse(event.data);
        note(data.phase === "running" ? "live" : data.phase, data.phase === "running" ? "on" : "off");
        take(data);
      });
    }
    source.addEventListener("error", () => {
      // The connection's own repetition would not tell a stopped server from a restart.
      close();
      note("not connected", "lost");
      lost();
    });
  };
  const close = () => {
    source?.close();
    source = null;
  };

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => event.persisted && open());
  onReturn(open);
  open();
}

/** Call `refresh` every so many seconds while the page is seen, and when it is seen again. */
export function repeat(refresh, seconds) {
  let timer = 0;
  const turn = async () => {
    clearTimeout(timer);
    if (document.hidden) return;
    try {
      await refresh();
    } finally {
      timer = setTimeout(turn, seconds * 1000);
    }
  };
  document.addEventListener("visibilitychange", turn);
  onReturn(turn);
  timer = setTimeout(turn, seconds * 1000);
}
