<!-- bare_ampersand.pml:3:26: not well-formed; expected "&lt;" for "<" and "&amp;" for "&", or <![CDATA[…]]> around code -->
<schema name="s">
  <module name="a">salt & pepper</module>
</schema>
