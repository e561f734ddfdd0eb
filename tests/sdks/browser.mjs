// node browser.mjs APP..: pages in one Chromium, each on another origin than the gateway, with analytics-next, or with nothing but the
// browser's own beacon. An APP is JSON, `{ host, calls, key, size, mode, origin }`: the six calls, or three of which one is bad,
// delivered as `mode` says: standard, batching, unload or beacon. The pages stay open until standard input ends.
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { basename, dirname, join } from 'node:path'
import { start } from './site.mjs'

const sdk = dirname(fileURLToPath(import.meta.resolve('@segment/analytics-next')))
const umd = join(sdk.slice(0, sdk.lastIndexOf('dist')), 'dist', 'umd')

const find = async (url) => {
  if (url === '/' || url === '/plain') {
    const script = url === '/' ? '<script src="/index.js"></script>' : ''
    return { type: 'text/html', body: `<!doctype html><title>Shop</title>${script}<h1>Shop</h1>` }
  }
  return { type: 'text/javascript', body: await readFile(join(umd, basename(url))) }
}

// In a page: everything at once when it goes, as RudderStack's SDK does it.
function leave({ host, calls, key }) {
  const nested = (depth) => (depth === 0 ? 1 : { a: nested(depth - 1) })
  const made =
    calls === 'all'
      ? [
          { type: 'identify', traits: { plan: 'pro' } },
          {
            type: 'track',
            event: 'Order Placed',
            properties: { total: 12.5 },
            integrations: { Mixpanel: false },
            timestamp: '2024-05-01T12:00:00.000Z',
          },
          { type: 'page', category: 'Docs', name: 'Start', properties: { path: '/x' } },
          { type: 'screen', name: 'Main', properties: { dark: true } },
          { type: 'group', groupId: 'acme', traits: { size: 3 } },
          { type: 'alias', previousId: 'anon-1' },
        ]
      : ['before', 'bad', 'after'].map((event) => ({
          type: 'track',
          event,
          properties: event === 'bad' ? nested(70) : {},
        }))
  addEventListener('pagehide', () => {
    const batch = made.map((event, n) => ({ ...event, userId: 'ada', messageId: `beacon-${host}-${n}` }))
    const body = JSON.stringify({ batch, sentAt: new Date() })
    const taken = navigator.sendBeacon(
      `http://${host}/beacon/v1/batch?writeKey=${key}`,
      new Blob([body], { type: 'text/plain' })
    )
    if (!taken) console.log('sdk error: the beacon is not taken')
  })
}

// In a page: the calls.
async function call({ host, calls, key, size, mode }) {
  const batching = (timeout) => ({ strategy: 'batching', config: { size, timeout } })
  // Of `unload`, nothing leaves before the page does.
  const delivery = { standard: undefined, batching: batching(300), unload: batching(600_000) }[mode]
  const [analytics] = await AnalyticsNext.AnalyticsBrowser.load(
    { writeKey: key, cdnURL: `http://${host}` },
    { integrations: { 'Segment.io': { apiHost: `${host}/v1`, protocol: 'http', deliveryStrategy: delivery } } }
  )
  analytics.on('error', (error) => console.log('sdk error:', error.code, String(error.reason)))
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
}

const { open, end } = await start(find)

async function run(app) {
  const page = await open(app.mode === 'beacon' ? '/plain' : '/', app.origin)
  await page.evaluate(app.mode === 'beacon' ? leave : call, app)
  if (app.mode === 'beacon' || app.mode === 'unload') await page.goto('about:blank')
  console.log('done')
}

await Promise.all(process.argv.slice(2).map((app) => run(JSON.parse(app))))
await end()
