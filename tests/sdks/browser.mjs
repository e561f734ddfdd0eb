// node browser.mjs HOST all|bad standard|batching|unload|beacon: a page in Chromium, on another origin than the gateway, with
// analytics-next, or with nothing but the browser's own beacon. It stays open until standard input ends.
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { basename, dirname, join } from 'node:path'
import { open } from './site.mjs'

const [host, calls, mode] = process.argv.slice(2)
const sdk = dirname(fileURLToPath(import.meta.resolve('@segment/analytics-next')))
const umd = join(sdk.slice(0, sdk.lastIndexOf('dist')), 'dist', 'umd')

const find = async (url) => {
  if (url === '/') {
    const script = mode === 'beacon' ? '' : '<script src="/index.js"></script>'
    return { type: 'text/html', body: `<!doctype html><title>Shop</title>${script}<h1>Shop</h1>` }
  }
  return { type: 'text/javascript', body: await readFile(join(umd, basename(url))) }
}
const { page, end } = await open(find, '/')

if (mode === 'beacon') {
  await page.evaluate(({ host, calls }) => {
    addEventListener('pagehide', () => {
      const nested = (depth) => (depth === 0 ? 1 : { a: nested(depth - 1) })
      const order = { event: 'Order Placed', properties: { total: 12.5 }, integrations: { Mixpanel: false } }
      const all = [
        { type: 'identify', traits: { plan: 'pro' } },
        { type: 'track', ...order, timestamp: '2024-05-01T12:00:00.000Z' },
        { type: 'page', category: 'Docs', name: 'Start', properties: { path: '/x' } },
        { type: 'screen', name: 'Main', properties: { dark: true } },
        { type: 'group', groupId: 'acme', traits: { size: 3 } },
        { type: 'alias', previousId: 'anon-1' },
      ]
      const bad = ['before', 'bad', 'after'].map((event) => ({
        type: 'track',
        event,
        properties: event === 'bad' ? nested(70) : {},
      }))
      const made = calls === 'all' ? all : bad
      // Not every page is one that has crypto.randomUUID().
      const batch = made.map((event, n) => ({ ...event, userId: 'ada', messageId: `beacon-${n}-${Date.now()}-${Math.random()}` }))
      const body = JSON.stringify({ batch, sentAt: new Date() })
      const taken = navigator.sendBeacon(
        `http://${host}/beacon/v1/batch?writeKey=wk-SECRET-0123456789abcdef`,
        new Blob([body], { type: 'text/plain' })
      )
      console.log('beacon', taken)
    })
  }, { host, calls })
  await page.goto('about:blank')
} else {
  await page.evaluate(
    async ({ host, calls, mode }) => {
      const delivery = {
        standard: undefined,
        batching: { strategy: 'batching', config: { size: 50, timeout: 300 } },
        // Nothing leaves before the page does.
        unload: { strategy: 'batching', config: { size: 50, timeout: 600_000 } },
      }[mode]
      const [analytics] = await AnalyticsNext.AnalyticsBrowser.load(
        { writeKey: 'wk-SECRET-0123456789abcdef', cdnURL: `http://${host}` },
        { integrations: { 'Segment.io': { apiHost: `${host}/v1`, protocol: 'http', deliveryStrategy: delivery } } }
      )
      const nested = (depth) => (depth === 0 ? 1 : { a: nested(depth - 1) })
      const made = []
      if (calls === 'all') {
        made.push(analytics.identify('ada', { plan: 'pro' }))
        made.push(
          analytics.track(
            'Order Placed',
            { total: 12.5 },
            { integrations: { Mixpanel: false }, timestamp: new Date('2024-05-01T12:00:00.000Z') }
          )
        )
        made.push(analytics.page('Docs', 'Start', { path: '/x' }))
        made.push(analytics.screen('Main', { dark: true }))
        made.push(analytics.group('acme', { size: 3 }))
        made.push(analytics.alias('ada', 'anon-1'))
      } else {
        await analytics.identify('ada')
        for (const event of ['before', 'bad', 'after']) {
          made.push(analytics.track(event, event === 'bad' ? nested(70) : {}))
        }
      }
      await Promise.all(made)
    },
    { host, calls, mode }
  )
  if (mode === 'unload') await page.goto('about:blank')
}
console.log('done')
await end()
