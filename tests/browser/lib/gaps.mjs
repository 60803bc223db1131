/** How long a picture stands still: every presented frame of another's camera is noted, whichever element shows it. */

/** From now on notes the frames of `other` that `who` sees. */
export async function noteFrames(who, other) {
  await who.page.evaluate((name) => {
    const noted = { last: performance.now(), longest: 0, frames: 0 };
    window.notedFrames = noted;
    const follow = (video) => {
      const onFrame = (now) => {
        if (window.notedFrames !== noted) return;
        // The first frame of an element made anew may be as old as its last.
        if (now > noted.last) {
          noted.longest = Math.max(noted.longest, now - noted.last);
          noted.last = now;
          noted.frames++;
        }
        follow(window.probes.tile(name)?.querySelector('video') ?? video);
      };
      video.requestVideoFrameCallback(onFrame);
    };
    follow(window.probes.tile(name).querySelector('video'));
  }, other.voice);
}

/** The longest gap between frames since the last call of this, in milliseconds, also one that goes on, and how many frames. */
export function longestGap(who) {
  return who.page.evaluate(() => {
    const noted = window.notedFrames;
    const longest = Math.max(noted.longest, performance.now() - noted.last);
    const { frames } = noted;
    Object.assign(noted, { longest: 0, frames: 0 });
    return { longestMs: Math.round(longest), frames };
  });
}

/** The longest gap that either sees of the other in so many seconds. */
export async function watchGaps(pair, seconds) {
  await Promise.all(pair.map(longestGap));
  await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  const seen = await Promise.all(pair.map(longestGap));
  return {
    longestMs: Math.max(...seen.map(({ longestMs }) => longestMs)),
    frames: Math.min(...seen.map(({ frames }) => frames)),
  };
}
