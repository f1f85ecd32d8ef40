<!-- unknown_attribute.pml:3:3: unknown attribute 'cached' of <module>; expected name, cache, src, max_tokens -->
<schema name="s">
  <module name="a" cached="false">text</module>
</schema>
