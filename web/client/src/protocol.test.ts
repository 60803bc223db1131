import { expect, it } from 'vitest';
import { signalingUrl, sourceOf } from './protocol';

it('signals to the host of the page, encrypted when the page is', () => {
  expect(signalingUrl('http://127.0.0.1:4443/?roomId=x', 'a b', 'me')).toBe(
    'ws://127.0.0.1:4443/?roomId=a+b&peerId=me',
  );
  expect(signalingUrl('https://soup.example/call#top', 'a', 'me')).toBe(
    'wss://soup.example/?roomId=a&peerId=me',
  );
  expect(signalingUrl('https://soup.example/', 'a', 'me', { token: 'x.y.z', peerKey: 'k' })).toBe(
    'wss://soup.example/?roomId=a&peerId=me&token=x.y.z&peerKey=k',
  );
});

it('takes video without a known source for a camera', () => {
  expect(sourceOf('video', undefined)).toBe('camera');
  expect(sourceOf('video', { source: 'video' })).toBe('camera');
  expect(sourceOf('audio', { source: 'audio' })).toBe('microphone');
});
