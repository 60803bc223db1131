/**
 * `window.tureen`: a handle for debugging and for tests, always there. It shows what the call knows and lets one do by
 * hand what the buttons do; nothing of the page reads it.
 */
import type { Call, CallState } from '@tureen/client';

interface PeerView {
  id: string;
  displayName: string;
  tracks: { audio?: MediaStreamTrack; video?: MediaStreamTrack; screen?: MediaStreamTrack };
}

export interface TureenHandle {
  readonly state: CallState;
  readonly peers: PeerView[];
  readonly call: Call | undefined;
}

declare global {
  interface Window {
    tureen: TureenHandle;
  }
}

export function expose(call: Call | undefined): void {
  window.tureen = {
    get state() {
      return call?.state ?? 'new';
    },
    get peers() {
      return [...(call?.peers.values() ?? [])].map(({ id, displayName, tracks }) => {
        const audio = tracks.get('microphone')?.track;
        const video = tracks.get('camera')?.track;
        const screen = tracks.get('screen')?.track;
        return {
          id,
          displayName,
          tracks: { ...(audio && { audio }), ...(video && { video }), ...(screen && { screen }) },
        };
      });
    },
    call,
  };
}
