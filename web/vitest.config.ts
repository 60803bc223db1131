import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['{client,app}/src/**/*.test.ts'],
    environment: 'node',
    restoreMocks: true,
  },
});
