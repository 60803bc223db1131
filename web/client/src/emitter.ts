/** Events named by the keys of `E`, each with its listener's arguments as a tuple. */
export class Emitter<E extends Record<keyof E, unknown[]>> {
  readonly #listeners: { [K in keyof E]?: Set<(...values: E[K]) => void> } = {};

  /** Adds a listener and returns the function that removes it. */
  on<K extends keyof E>(event: K, listener: (...values: E[K]) => void): () => void {
    const listeners = (this.#listeners[event] ??= new Set());
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  protected emit<K extends keyof E>(event: K, ...values: E[K]): void {
    for (const listener of [...(this.#listeners[event] ?? [])]) listener(...values);
  }
}
