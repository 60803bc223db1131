/** What a scenario does to a network namespace that was made for it. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Drops every UDP datagram that comes in or goes out of the namespace; returns what undoes it. */
export async function dropUdp(netns) {
  const nft = (text) => run('ip', ['netns', 'exec', netns, 'nft', text]);
  await nft('add table inet tureen_drop');
  for (const hook of ['input', 'output']) {
    await nft(`add chain inet tureen_drop ${hook} { type filter hook ${hook} priority 0; }`);
    await nft(`add rule inet tureen_drop ${hook} meta l4proto udp counter drop`);
  }
  return async () => {
    await nft('delete table inet tureen_drop');
  };
}
