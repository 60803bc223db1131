/** Which worker process carries a call: the one that owns the UDP port that the page sends to. */
import { readFile, readdir, readlink } from 'node:fs/promises';
import { check } from './scenario.mjs';

/** The process id of the worker behind `port`, among the descendants of `serverPid`. */
export async function workerOf(serverPid, port) {
  const children = await descendants(serverPid);
  for (const pid of children) {
    const ports = await udpPorts(pid).catch(() => new Map());
    const inode = ports.get(port);
    if (inode !== undefined && (await sockets(pid)).has(inode)) return pid;
  }
  check(false, `no process below ${serverPid} owns UDP port ${port} (looked at ${[...children]})`);
}

async function descendants(root) {
  const parents = new Map();
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const status = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => undefined);
    // The command in brackets may hold anything; the parent is the second field after it.
    const parent = status?.slice(status.lastIndexOf(')') + 2).split(' ')[1];
    if (parent) parents.set(Number(name), Number(parent));
  }
  const found = new Set([root]);
  for (let grown = true; grown;) {
    grown = false;
    for (const [pid, parent] of parents) {
      if (found.has(parent) && !found.has(pid)) {
        found.add(pid);
        grown = true;
      }
    }
  }
  return found;
}

/** Local UDP ports of the process' network namespace, with the inode of each socket. */
async function udpPorts(pid) {
  const ports = new Map();
  for (const table of ['udp', 'udp6']) {
    const text = await readFile(`/proc/${pid}/net/${table}`, 'utf8').catch(() => '');
    for (const line of text.split('\n').slice(1)) {
      const fields = line.trim().split(/\s+/);
      if (fields.length > 9) ports.set(Number.parseInt(fields[1].split(':')[1], 16), fields[9]);
    }
  }
  return ports;
}

async function sockets(pid) {
  const inodes = new Set();
  for (const fd of await readdir(`/proc/${pid}/fd`).catch(() => [])) {
    const target = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => '');
    const inode = /^socket:\[(\d+)\]$/.exec(target)?.[1];
    if (inode) inodes.add(inode);
  }
  return inodes;
}
