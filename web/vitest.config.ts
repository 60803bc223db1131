import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['{client,app}/src/**/*.test.ts'],
    environment: 'node',
    // Node has no WebSocket of its own before version 22.
    setupFiles: ['./vitest.setup.ts'],
    restoreMocks: true,
  },
});
