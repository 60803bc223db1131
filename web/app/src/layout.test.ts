import { describe, expect, it } from 'vitest';
import { bestGrid, galleryGrid } from './layout';

const GAP = 10;

describe.each([
  { width: 1280, height: 660 },
  { width: 390, height: 620 },
  { width: 800, height: 200 },
])('in $width by $height', (area) => {
  it.each(Array.from({ length: 25 }, (_, index) => index + 1))('%i tiles fit', (count) => {
    const { columns, tileWidth, tileHeight } = galleryGrid(count, area, GAP);
    const rows = Math.ceil(count / columns);
    expect(columns * tileWidth + (columns - 1) * GAP).toBeLessThanOrEqual(area.width);
    expect(rows * tileHeight + (rows - 1) * GAP).toBeLessThanOrEqual(area.height);
    expect(tileWidth).toBeGreaterThan(1);
  });
});

it('puts sixteen tiles in four rows of four', () => {
  expect(bestGrid(16, { width: 1280, height: 720 }, GAP, 16 / 9).columns).toBe(4);
});

it('survives a window without any room', () => {
  expect(galleryGrid(4, { width: 0, height: 0 }, GAP)).toEqual({ columns: 1, tileWidth: 1, tileHeight: 1 });
});
