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
  await page.evaluate((host) => {
    addEventListener('pagehide', () => {
      const event = (event, n) => ({ type: 'track', event, userId: 'ada', messageId: `beacon-${n}` })
      const body = JSON.stringify({ batch: [event('Left', 1), event('Left again', 2)], sentAt: new Date() })
      const taken = navigator.sendBeacon(
        `http://${host}/beacon/v1/batch?writeKey=wk-SECRET`,
        new Blob([body], { type: 'text/plain' })
      )
      console.log('beacon', taken)
    })
  }, host)
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
        { writeKey: 'wk-SECRET', cdnURL: `http://${host}` },
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
