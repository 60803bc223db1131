import { defineConfig } from 'vite';

// The page is embedded in the server's binary: relative addresses only, so that it also works below a
// reverse proxy's path, and no asset from anywhere else.
export default defineConfig({
  base: './',
  build: {
    target: 'es2022',
    outDir: 'dist',
    emptyOutDir: true,
    modulePreload: false,
    license: { fileName: 'licenses.md' },
    chunkSizeWarningLimit: 800,
  },
  // mediasoup-client's dependencies read Node's `global` and `process.env.DEBUG`.
  define: { global: 'globalThis' },
});
