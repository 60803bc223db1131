import { WebSocket } from 'ws';

Object.assign(globalThis, { WebSocket });
