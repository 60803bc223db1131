/** Line icons on a 24-unit grid, drawn for this page; they take the text's colour. */
import { svg } from './dom';

const PATHS = {
  microphone:
    '<rect x="9" y="3" width="6" height="11" rx="3"/><path d="M5.5 11.500a6.5 6.5 0 0 0 13 0M12 18v3"/>',
  microphoneOff:
    '<path d="M15 9.500V6a3 3 0 0 0-5.7-1.300M9 9v2a3 3 0 0 0 4.8 2.400M5.5 11.500a6.5 6.5 0 0 0 10.4 5.200M18.5 11.500a6.4 6.4 0 0 1-.5 2.500M12 18v3M4 4l16 16"/>',
  camera: '<rect x="3" y="6.5" width="12" height="11" rx="2.5"/><path d="m15 10.5 6-3v9l-6-3"/>',
  cameraOff:
    '<path d="M9 6.500h3.500A2.5 2.5 0 0 1 15 9v1.500l6-3v9l-3-1.500M15 15a2.5 2.5 0 0 1-2.5 2.500h-7A2.5 2.5 0 0 1 3 15V9c0-1 .6-1.9 1.5-2.300M4 4l16 16"/>',
  screen:
    '<rect x="3" y="4.5" width="18" height="12" rx="2.5"/><path d="M12 13.500v-6M9.2 10 12 7.200l2.8 2.800M8.5 20h7"/>',
  screenOff:
    '<rect x="3" y="4.5" width="18" height="12" rx="2.5"/><path d="m9.7 8.2 4.6 4.600m0-4.6-4.6 4.600M8.5 20h7"/>',
  statistics: '<path d="M4 20h16M7 16v-4M12 16V6M17 16v-7"/>',
  link: '<path d="M10.2 13.800a4 4 0 0 0 5.7 0l3-3a4 4 0 0 0-5.7-5.700l-1.2 1.200M13.8 10.200a4 4 0 0 0-5.7 0l-3 3a4 4 0 0 0 5.7 5.700l1.2-1.2"/>',
  leave:
    '<path d="M3.7 14.800c4.7-4.4 11.9-4.4 16.6 0 .4.4.5 1 .1 1.500l-1.5 1.900c-.3.4-.9.5-1.4.3l-2.3-1.100a1.2 1.2 0 0 1-.6-1.200l.2-1.600a9.7 9.7 0 0 0-5.6 0l.2 1.600c.1.5-.2 1-.6 1.200l-2.3 1.100c-.5.2-1.1.1-1.4-.3l-1.5-1.900c-.4-.5-.3-1.1.1-1.500z" fill="currentColor"/>',
  wordmark:
    '<circle cx="12" cy="4.4" r="1.3" fill="var(--saffron)" stroke="var(--saffron)"/><path d="M5 9.800C5.8 7.5 8.5 6.4 12 6.400s6.2 1.1 7 3.400z" fill="currentColor"/><path d="M4 12h16c0 4.6-3.1 7-8 7s-8-2.4-8-7zM4.1 13.200c-1.9-.5-2.2 1.6-1.3 2.4.7.6 1.5.5 2.1.200M19.9 13.200c1.9-.5 2.2 1.6 1.3 2.4-.7.6-1.5.5-2.1.200M8.7 21.200h6.6"/>',
} as const;

export type IconName = keyof typeof PATHS;

export function icon(name: IconName): SVGElement {
  return svg(
    `<svg viewBox="0 0 24 24" class="icon" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="1.7" stroke-linecap="round" stroke-linejoin="round">${PATHS[name]}</svg>`,
  );
}
