// Calls to mb's HTTP API. An answer that is not a success is thrown as an error with mb's message.

import { at, within } from './base.js';

const LIMIT_MS = 15_000;

export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The path with a query; names without a value are left out. */
export function withQuery(path, query) {
  const given = Object.entries(query).filter(([, value]) => value != null && value !== '');
  const text = new URLSearchParams(given).toString();
  return text ? `${path}?${text}` : path;
}

/** The answer's JSON, which is waited for up to `limit` ms. */
export async function call(method, path, body, limit = LIMIT_MS) {
  const request = { method, headers: { accept: 'application/json' }, signal: AbortSignal.timeout(limit) };
  if (method !== 'GET') {
    request.headers['content-type'] = 'application/json';
    request.body = JSON.stringify(body ?? {});
  }
  let response;
  try {
    response = await fetch(at(path), request);
  } catch (cause) {
    const late = cause.name === 'TimeoutError';
    throw new ApiError(late ? 'mb took too long to answer' : 'mb does not answer');
  }
  if (response.status === 401) location.assign(at(`/login?next=${within(location.pathname)}`));
  let answer;
  try {
    answer = await response.json();
  } catch {
    if (response.ok) throw new ApiError('mb answered with something that is not JSON', response.status);
  }
  if (!response.ok) {
    throw new ApiError(answer?.error?.message ?? `mb answered with status ${response.status}`, response.status);
  }
  return answer;
}

export const get = (path, query = {}) => call('GET', withQuery(`/api/v1/${path}`, query));
export const post = (path, body, limit) => call('POST', `/api/v1/${path}`, body, limit);
export const patch = (path, body) => call('PATCH', `/api/v1/${path}`, body);
