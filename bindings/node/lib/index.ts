/**
 * Durable state for the AgentMux orchestrator, in SQLite: a drop-in for its TypeScript `StatePersistenceService`.
 *
 * @packageDocumentation
 */
export * from './constants.js';
export * from './types.js';
export * from './reports.js';
export { STATE_ERROR_CODES, StatePersistenceError, type StateErrorCode } from './error.js';
export { StatePersistenceService, getStatePersistenceService, resetStatePersistenceService } from './service.js';
